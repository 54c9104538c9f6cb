# Shared by the scripts beside it; sourced, not run.
# shellcheck shell=bash disable=SC2034
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

cluster=${CLUSTER:-belfry}
router=$cluster-router
frr_image=${FRR_IMAGE:-quay.io/frrouting/frr:10.2.1}
# kubectl of this cluster, whatever the current context is.
kubectl() { command kubectl --context "kind-$cluster" "$@"; }

say() { printf '== %s\n' "$*"; }

# need ends the script, and says what else there is, when a program is missing or
# Docker does not answer.
need() {
	local program
	for program in "$@"; do
		if ! command -v "$program" >/dev/null; then
			without "$program is not installed"
		fi
	done
	if ! docker info >/dev/null 2>&1; then
		without 'docker is installed, but its daemon does not answer'
	fi
}

without() {
	cat >&2 <<-END
		$1.

		Without Docker and kind, the same can be seen in network namespaces, on any Linux
		machine with Go and root:

		  make demo    a cluster, a Service, its owner killed, the timeline
		  make e2e     the image and the manifests on nodes with kubelets
	END
	exit 3
}

# subnet_of prints the IPv4 subnet among those on standard input.
subnet_of() {
	local subnet
	while read -r subnet; do
		if [[ $subnet =~ ^([0-9]+)\.([0-9]+)\.([0-9]+)\.[0-9]+/([0-9]+)$ ]]; then
			echo "$subnet"
			return
		fi
	done
	echo 'the network of kind has no IPv4 subnet' >&2
	return 1
}

# slice prints the range of 50 addresses at the far end of an IPv4 subnet, where
# Docker gives out none until all others are taken; $2 is the first's last byte.
slice() {
	local subnet=$1 first=$2 a b c length
	IFS=./ read -r a b c _ length <<<"$subnet"
	if ((length > 24)); then
		echo "$subnet is too small: a /24 or larger is needed" >&2
		return 1
	fi
	# The third and second byte of the last /24.
	if ((length >= 16)); then
		c=$((c | ((1 << (24 - length)) - 1)))
	else
		c=255
		b=$((b | ((1 << (16 - length)) - 1)))
	fi
	echo "$a.$b.$c.$first-$a.$b.$c.$((first + 49))"
}

# samples prints the objects of the demonstration: $1 is the range for layer 2, $2
# the router's address.
samples() {
	cat <<-END
		apiVersion: belfry.dev/v1beta1
		kind: IPAddressPool
		metadata:
		  name: segment
		spec:
		  addresses: [$1]
		---
		apiVersion: belfry.dev/v1beta1
		kind: L2Advertisement
		metadata:
		  name: segment
		spec:
		  ipAddressPools: [segment]
		---
		apiVersion: belfry.dev/v1beta1
		kind: IPAddressPool
		metadata:
		  name: routed
		spec:
		  addresses: [203.0.113.0/24]
		  autoAssign: false
		---
		apiVersion: belfry.dev/v1beta1
		kind: BGPPeer
		metadata:
		  name: router
		spec:
		  myASN: 64512
		  peerASN: 64513
		  peerAddress: $2
		  bfdProfile: fast
		---
		apiVersion: belfry.dev/v1beta1
		kind: BFDProfile
		metadata:
		  name: fast
		spec:
		  receiveInterval: 100
		  transmitInterval: 100
		---
		apiVersion: belfry.dev/v1beta1
		kind: BGPAdvertisement
		metadata:
		  name: routed
		spec:
		  ipAddressPools: [routed]
	END
}

# router_config prints FRR's configuration: whoever is in subnet $1 and in AS 64512
# may be a neighbor, and may send routes of the pool.
router_config() {
	cat <<-END
		hostname router
		ip prefix-list pool seq 5 permit 203.0.113.0/24 ge 24
		route-map pool permit 10
		 match ip address prefix-list pool
		exit
		router bgp 64513
		 bgp log-neighbor-changes
		 no bgp default ipv4-unicast
		 neighbor nodes peer-group
		 neighbor nodes remote-as 64512
		 neighbor nodes bfd
		 neighbor nodes timers 3 9
		 bgp listen range $1 peer-group nodes
		 address-family ipv4 unicast
		  neighbor nodes activate
		  neighbor nodes route-map pool in
		  maximum-paths 8
		 exit-address-family
		exit
		bfd
		exit
	END
}
