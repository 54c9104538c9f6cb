package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Network is the hosts of a run and the switch that joins them, and what can be
// wrong between them.
type Network struct {
	run *run
}

// The hosts of every run beside its nodes.
const (
	// Switch holds the bridge that joins all hosts. Its ports are named after
	// the hosts behind them.
	Switch = "switch"
	// ControlPlane runs etcd, the API server, the controller manager and the
	// scheduler.
	ControlPlane = "cp"
	// Client is a host of the same segment that is no part of the cluster.
	Client = "client"
	// Router is every host's default gateway.
	Router = "router"
)

// maxNodes is what the address plan has room for.
const maxNodes = 100

// Every host is on one segment, with addresses made of its number: 1 router, 2
// control plane, 3 client, 11 and on the nodes. The numbers from 128 to 191 are
// the prober's, those from 200 to 250 are free for Services.
const (
	SegmentV4 = "198.51.100.0/24"
	SegmentV6 = "2001:db8:51::/64"

	podsV4 = "10.244.0.0/16"
	podsV6 = "fd00:10:244::/48"
)

// NIC is the name of the interface by which each host is on the segment.
const NIC = "eth0"

// podNIC joins a node to the namespace of its pods. Its name is one that a
// network plugin would choose, and so one that nobody announces on.
const podNIC = "cni0"

// A hostAddresses is where a host is found on the segment.
type hostAddresses struct {
	v4, v6 netip.Addr
	mac    net.HardwareAddr
}

// NodeName returns the name of the nth node, from 1.
func NodeName(n int) string { return "node" + strconv.Itoa(n) }

func nodeNumber(host string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(host, "node"))
	return n, err == nil && strings.HasPrefix(host, "node")
}

func hostNumber(host string) int {
	switch host {
	case Router:
		return 1
	case ControlPlane:
		return 2
	case Client:
		return 3
	}
	if n, ok := nodeNumber(host); ok {
		return 10 + n
	}
	panic("no such host: " + host)
}

func addressesOf(host string) hostAddresses {
	n := hostNumber(host)
	return hostAddresses{
		v4:  netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}),
		v6:  netip.MustParseAddr(fmt.Sprintf("2001:db8:51::%d", n)),
		mac: net.HardwareAddr{0x02, 0xbe, 0x1f, 0, 0, byte(n)},
	}
}

// Addresses returns a host's addresses on the segment, IPv4 and IPv6.
func (n *Network) Addresses(host string) (v4, v6 netip.Addr) {
	a := addressesOf(host)
	return a.v4, a.v6
}

// Nodes returns the names of the nodes.
func (n *Network) Nodes() []string {
	names := make([]string, n.run.options.Nodes)
	for i := range names {
		names[i] = NodeName(i + 1)
	}
	return names
}

// Hosts returns all hosts of the segment.
func (n *Network) Hosts() []string {
	return append([]string{ControlPlane, Client, Router}, n.Nodes()...)
}

// podHost is the namespace that holds a node's pods.
func podHost(node string) string { return node + "-pods" }

// podHosts are the nodes whose pods the lab itself runs: all or none.
func (n *Network) podHosts() []string {
	if n.run.options.Containers {
		return nil
	}
	return n.Nodes()
}

// podPrefixes are the ranges of a node's pods.
func podPrefixes(node string) (v4, v6 netip.Prefix) {
	n, _ := nodeNumber(node)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24),
		netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%x::/64", n))
}

// build makes the namespaces, the switch and the links between them.
func (n *Network) build(ctx context.Context) error {
	n.run.say("making %d hosts on %s and %s", len(n.Hosts()), SegmentV4, SegmentV6)
	namespaces := append([]string{Switch}, n.Hosts()...)
	for _, node := range n.podHosts() {
		namespaces = append(namespaces, podHost(node))
	}
	var batch []string
	for _, host := range namespaces {
		batch = append(batch, "netns add "+n.Netns(host))
	}
	if err := ipBatch(ctx, "", batch); err != nil {
		return err
	}
	for _, host := range namespaces {
		if err := n.setSysctls(host); err != nil {
			return fmt.Errorf("host %s: %w", host, err)
		}
	}

	// STP and multicast snooping are off: a frame is never late or missing
	// because of the switch, unless a test says so.
	batch = []string{
		fmt.Sprintf("link add br0 netns %s type bridge stp_state 0 forward_delay 0 mcast_snooping 0", n.Netns(Switch)),
	}
	for _, host := range n.Hosts() {
		batch = append(batch, fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s address %s",
			host, n.Netns(Switch), NIC, n.Netns(host), addressesOf(host).mac))
	}
	for _, node := range n.podHosts() {
		batch = append(batch, fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s",
			podNIC, n.Netns(node), NIC, n.Netns(podHost(node))))
	}
	if err := ipBatch(ctx, "", batch); err != nil {
		return err
	}
	batch = []string{"link set lo up", "link set br0 up"}
	for _, host := range n.Hosts() {
		batch = append(batch, "link set "+host+" master br0 up")
	}
	if err := ipBatch(ctx, n.Netns(Switch), batch); err != nil {
		return err
	}
	for _, host := range n.Hosts() {
		if err := n.configure(ctx, host); err != nil {
			return err
		}
	}
	for _, node := range n.podHosts() {
		v4, v6 := podPrefixes(node)
		if err := ipBatch(ctx, n.Netns(podHost(node)), []string{
			"link set lo up",
			"link set " + NIC + " up",
			fmt.Sprintf("address replace %s/%d dev %s", v4.Addr().Next().Next(), v4.Bits(), NIC),
			fmt.Sprintf("address replace %s/%d dev %s nodad", v6.Addr().Next().Next(), v6.Bits(), NIC),
			fmt.Sprintf("route replace default via %s", v4.Addr().Next()),
			fmt.Sprintf("route replace default via %s", v6.Addr().Next()),
		}); err != nil {
			return err
		}
	}
	return nil
}

// setSysctls prepares a namespace before it has any interface. Addresses are
// usable at once (no DAD), nothing is learned from the network, and IPv6
// addresses survive an interface that goes down.
func (n *Network) setSysctls(host string) error {
	set := map[string]string{"net/ipv4/conf/all/send_redirects": "0"}
	for _, scope := range []string{"all", "default"} {
		set["net/ipv4/conf/"+scope+"/rp_filter"] = "0"
		set["net/ipv4/conf/"+scope+"/accept_redirects"] = "0"
		set["net/ipv6/conf/"+scope+"/disable_ipv6"] = "0"
		set["net/ipv6/conf/"+scope+"/accept_dad"] = "0"
		set["net/ipv6/conf/"+scope+"/accept_ra"] = "0"
		set["net/ipv6/conf/"+scope+"/accept_redirects"] = "0"
		set["net/ipv6/conf/"+scope+"/keep_addr_on_down"] = "1"
	}
	if _, node := nodeNumber(host); node || host == Router {
		set["net/ipv4/ip_forward"] = "1"
		set["net/ipv6/conf/all/forwarding"] = "1"
	}
	if host == Switch {
		set["net/ipv6/conf/all/disable_ipv6"] = "1"
		set["net/ipv6/conf/default/disable_ipv6"] = "1"
	}
	return n.inside(host, func() error {
		for key, value := range set {
			if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
				return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
			}
		}
		return nil
	})
}

// configure gives a host of the segment its addresses and routes. It may be
// repeated: an interface that went down has lost its routes.
func (n *Network) configure(ctx context.Context, host string) error {
	a, gateway := addressesOf(host), addressesOf(Router)
	batch := []string{
		"link set lo up",
		"link set " + NIC + " up",
		fmt.Sprintf("address replace %s/24 dev %s", a.v4, NIC),
		fmt.Sprintf("address replace %s/64 dev %s nodad", a.v6, NIC),
	}
	if host != Router {
		batch = append(batch,
			fmt.Sprintf("route replace default via %s", gateway.v4),
			fmt.Sprintf("route replace default via %s", gateway.v6))
	}
	for _, node := range n.Nodes() {
		if host == Client {
			break // it knows nothing of the cluster's inside
		}
		v4, v6 := podPrefixes(node)
		if node == host && n.run.options.Containers {
			continue // the network plugin sees to it
		}
		if node == host {
			batch = append(batch,
				"link set "+podNIC+" up",
				fmt.Sprintf("address replace %s/%d dev %s", v4.Addr().Next(), v4.Bits(), podNIC),
				fmt.Sprintf("address replace %s/%d dev %s nodad", v6.Addr().Next(), v6.Bits(), podNIC))
			continue
		}
		via := addressesOf(node)
		batch = append(batch,
			fmt.Sprintf("route replace %s via %s", v4, via.v4),
			fmt.Sprintf("route replace %s via %s", v6, via.v6))
	}
	return ipBatch(ctx, n.Netns(host), batch)
}

// remove removes all that carry the run's name.
func (n *Network) remove(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(netnsDir, n.run.name+"-*"))
	if err != nil || len(names) == 0 {
		return err
	}
	slices.Sort(names)
	var batch []string
	for _, name := range names {
		batch = append(batch, "netns delete "+filepath.Base(name))
	}
	return ipBatch(ctx, "", batch)
}
