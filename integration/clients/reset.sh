# Takes away everything a client may have left on a host, but for weft and the images that the lab loaded.
for id in $(docker ps --all --format '{{.ID}} {{.Names}}' | grep -v ' weft-' | cut -d' ' -f1); do
	docker rm --force --volumes "$id"
done
docker swarm leave --force
# A swarm's end takes a moment to free it.
until ! docker network inspect docker_gwbridge || docker network rm docker_gwbridge; do
	docker network disconnect --force docker_gwbridge gateway_ingress-sbox
	sleep 0.1
done
docker network ls --filter type=custom --format '{{.Name}}' | grep -v '^weft' | xargs --no-run-if-empty docker network rm
docker volume ls --quiet | grep -v '^weft' | xargs --no-run-if-empty docker volume rm --force
docker plugin ls --quiet | xargs --no-run-if-empty docker plugin rm --force
docker images --format '{{.Repository}}:{{.Tag}}' | grep -v '^weft/\|^busybox:latest$\|^no-shell:\|^configured:\|<none>' |
	xargs --no-run-if-empty docker rmi --force
docker image prune --force
docker builder prune --all --force
rm -rf /run/clients && mkdir -p /run/clients /run/shared
