//! What compose.yaml starts for monitoring: only when asked to, with fixed versions, closed to others.

use std::fs;

use serde_json::{Value, json};
use weft_monitoring::project;

#[test]
fn monitoring_is_a_profile_of_its_own_with_fixed_versions() {
    let text = fs::read_to_string(project("compose.yaml")).expect("readable");
    let file: Value = serde_saphyr::from_str(&text).expect("valid");
    for name in ["prometheus", "grafana"] {
        let service = &file["services"][name];
        let image = service["image"].as_str().unwrap_or_default();
        let (_, version) = image.split_once(':').unwrap_or_default();
        assert!(version.trim_start_matches('v').split('.').all(|part| part.parse::<u32>().is_ok()), "{name}: {image}");
        for volume in service["volumes"].as_array().expect("volumes") {
            assert!(volume["type"] != "bind" || volume["read_only"] == true, "{name} may change {volume}");
        }
    }
    assert_eq!(file["services"]["prometheus"]["profiles"], json!(["monitoring"]));
    let listens = file["services"]["prometheus"]["command"].to_string();
    assert!(listens.contains("--web.listen-address=${WEFT_PROMETHEUS_LISTEN:-127.0.0.1:9090}"), "{listens}");
    let grafana = &file["services"]["grafana"]["environment"];
    assert_eq!(grafana["GF_AUTH_ANONYMOUS_ENABLED"], "false");
    assert_eq!(grafana["GF_SERVER_HTTP_ADDR"], "${WEFT_GRAFANA_ADDRESS:-127.0.0.1}");
}
