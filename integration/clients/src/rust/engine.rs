//! Calls about the engine, images, networks, volumes and plugins.

use std::collections::HashMap;

use bollard::{
    Docker, body_full,
    models::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest},
    query_parameters::{
        BuildImageOptionsBuilder, CreateImageOptionsBuilder, CreatePluginOptionsBuilder, EventsOptionsBuilder,
        GetPluginPrivilegesOptionsBuilder, ImportImageOptions, InstallPluginOptionsBuilder, ListImagesOptions,
        ListNetworksOptionsBuilder, ListVolumesOptions, PruneBuildOptions, PruneImagesOptions, PruneVolumesOptions,
        PushImageOptions, RemoveImageOptions, RemoveVolumeOptions, SearchImagesOptionsBuilder, TagImageOptionsBuilder,
        UpgradePluginOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::stream;
use serde_json::json;

use super::{Calls, IMAGE, archive, body, call, stream};

pub(super) async fn drive(docker: &Docker, to: &mut Calls) {
    call!(to, docker.ping());
    call!(to, docker.version());
    call!(to, docker.info());
    call!(to, docker.df(None));
    stream!(to, docker.events(Some(EventsOptionsBuilder::default().since("1").until("2").build())));
    images(docker, to).await;
    networks_and_volumes(docker, to).await;
    plugins(docker, to).await;
}

async fn images(docker: &Docker, to: &mut Calls) {
    call!(to, docker.list_images(None::<ListImagesOptions>));
    call!(to, docker.inspect_image(IMAGE));
    call!(to, docker.inspect_image("nothing"), "missing");
    call!(to, docker.image_history(IMAGE));
    call!(to, docker.inspect_registry_image("127.0.0.1:9/nothing", None));
    call!(to, docker.search_images(SearchImagesOptionsBuilder::default().term("nothing").build()));
    let tag = TagImageOptionsBuilder::default().repo("tagged").tag("one").build();
    call!(to, docker.tag_image(IMAGE, Some(tag)));
    let saved = stream!(to, docker.export_image("tagged:one"));
    stream!(to, docker.export_images(&["tagged:one", IMAGE]));
    call!(to, docker.remove_image("tagged:one", None::<RemoveImageOptions>, None));
    let saved = Bytes::from(saved.concat());
    stream!(to, docker.import_image(ImportImageOptions::default(), body_full(saved.clone()), None));
    let pieces = stream::iter(
        saved.chunks(60_000).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect::<Vec<_>>(),
    );
    stream!(to, docker.import_image_stream(ImportImageOptions::default(), pieces, None));
    call!(to, docker.remove_image("tagged:one", None::<RemoveImageOptions>, None), "loaded");
    let made = CreateImageOptionsBuilder::default().from_src("-").repo("made").tag("one").build();
    stream!(to, docker.create_image(Some(made), Some(body_full(archive("greeting", b"hello\n"))), None), "imported");
    call!(to, docker.remove_image("made:one", None::<RemoveImageOptions>, None), "imported");
    let nothing = CreateImageOptionsBuilder::default().from_image("127.0.0.1:9/nothing").tag("latest").build();
    stream!(to, docker.create_image(Some(nothing), None, None));
    stream!(to, docker.push_image("127.0.0.1:9/nothing", None::<PushImageOptions>, None));
    let recipe = format!("FROM {IMAGE}\nRUN echo made > /made\n");
    let build = BuildImageOptionsBuilder::default().t("built").nocache(true).rm(true).build();
    stream!(to, docker.build_image(build, None, Some(body_full(archive("Dockerfile", recipe.as_bytes())))));
    call!(to, docker.inspect_image("built"), "built");
    call!(to, docker.remove_image("built", None::<RemoveImageOptions>, None), "built");
    call!(to, docker.prune_build(None::<PruneBuildOptions>));
    call!(to, docker.prune_images(None::<PruneImagesOptions>));
}

async fn networks_and_volumes(docker: &Docker, to: &mut Calls) {
    let network: NetworkCreateRequest =
        body(json!({ "Name": "net", "Driver": "bridge", "IPAM": { "Config": [{ "Subnet": "198.18.0.0/24" }] } }));
    call!(to, docker.create_network(network));
    call!(to, docker.inspect_network("net", None));
    // How long a swarm's own networks outlive it is chance.
    let own = ListNetworksOptionsBuilder::default().filters(&HashMap::from([("name", vec!["net"])])).build();
    call!(to, docker.list_networks(Some(own)));
    let connect: NetworkConnectRequest = body(json!({ "Container": "nothing" }));
    call!(to, docker.connect_network("net", connect));
    let disconnect: NetworkDisconnectRequest = body(json!({ "Container": "nothing" }));
    call!(to, docker.disconnect_network("net", disconnect));
    call!(to, docker.remove_network("net"));
    call!(to, docker.remove_network("net"), "missing");
    call!(to, docker.prune_networks(None));
    let volume: VolumeCreateRequest = body(json!({ "Name": "vol", "Labels": { "who": "me" } }));
    call!(to, docker.create_volume(volume));
    call!(to, docker.inspect_volume("vol"));
    call!(to, docker.list_volumes(None::<ListVolumesOptions>));
    call!(to, docker.remove_volume("vol", None::<RemoveVolumeOptions>));
    call!(to, docker.prune_volumes(None::<PruneVolumesOptions>));
}

async fn plugins(docker: &Docker, to: &mut Calls) {
    const NAME: &str = "127.0.0.1:9/idle";
    call!(to, docker.list_plugins(None));
    let name = CreatePluginOptionsBuilder::default().name("idle").build();
    let settings = archive("config.json", include_bytes!("../../docker/plugin/config.json"));
    call!(to, docker.create_plugin(name, body_full(settings)));
    call!(to, docker.inspect_plugin("idle"));
    call!(to, docker.set_plugin_config("idle", vec!["A=C".to_owned()]));
    call!(to, docker.enable_plugin("idle", None));
    call!(to, docker.disable_plugin("idle", None));
    call!(to, docker.push_plugin("idle", None));
    let upgrade = UpgradePluginOptionsBuilder::default().remote(NAME).build();
    call!(to, docker.upgrade_plugin("idle", upgrade, Vec::new(), None));
    call!(to, docker.remove_plugin("idle", None));
    call!(to, docker.get_plugin_privileges(GetPluginPrivilegesOptionsBuilder::default().remote(NAME).build()));
    let install = InstallPluginOptionsBuilder::default().remote(NAME).build();
    stream!(to, docker.install_plugin(install, Vec::new(), None));
}
