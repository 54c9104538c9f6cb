package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// BIRD is another router at the same address, on another port: AS 64514. It is
// told of a pool of its own, so that nobody else leads anything there.
const (
	birdAS   = 64514
	birdPort = 1790

	birds = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: birds}
spec:
  autoAssign: false
  addresses: [192.0.2.0/26, "2001:db8:114::/120"]
---
apiVersion: belfry.dev/v1beta1
kind: BGPAdvertisement
metadata: {name: birds}
spec:
  ipAddressPools: [birds]
  peers: [bird4, bird6]
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: bird4}
spec: {myASN: 64512, peerASN: 64514, peerAddress: 198.51.100.1, peerPort: 1790, holdTime: 9s, connectTime: 1s}
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: bird6}
spec: {myASN: 64512, peerASN: 64514, peerAddress: "2001:db8:51::1", peerPort: 1790, holdTime: 9s, connectTime: 1s}
`
)

// birdConfig makes every node a neighbor over IPv4 and over IPv6, and prefers
// others to one that says that it is leaving.
func birdConfig(l *lab.Lab) string {
	conf := `router id 198.51.100.1;
protocol device {}
protocol kernel { merge paths on; ipv4 { export all; import none; }; }
protocol kernel { merge paths on; ipv6 { export all; import none; }; }
filter from_k8s { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; }
`
	router4, router6 := l.Network.Addresses(lab.Router)
	for _, node := range l.Network.Nodes() {
		v4, v6 := l.Network.Addresses(node)
		for family, ends := range map[string][2]netip.Addr{"ipv4": {router4, v4}, "ipv6": {router6, v6}} {
			conf += fmt.Sprintf("protocol bgp %s_%s { local %s port %d as %d; neighbor %s as %d; passive on; hold time 3; error wait time 1, 2; %s { import filter from_k8s; export none; }; }\n",
				node, family, ends[0], birdPort, birdAS, ends[1], nodeAS, family)
		}
	}
	return conf
}

// birdHas waits until BIRD has an address from just these nodes.
func birdHas(t *testing.T, l *lab.Lab, address netip.Addr, nodes ...string) {
	t.Helper()
	family := map[bool]string{true: "ipv4", false: "ipv6"}[address.Is4()]
	eventually(t, 20*time.Second, fmt.Sprintf("BIRD has %s from %v", address, nodes), func() error {
		out, err := l.Routers.Birdc(t.Context(), "show route "+netip.PrefixFrom(address, address.BitLen()).String())
		if err != nil && len(nodes) > 0 {
			return fmt.Errorf("%w: %s", err, out)
		}
		var got []string
		for _, m := range regexp.MustCompile(`\[(\w+)_`+family+` `).FindAllStringSubmatch(out, -1) {
			got = append(got, m[1])
		}
		if slices.Sort(got); !slices.Equal(got, nodes) {
			return errors.New(out)
		}
		return nil
	})
}

// TestBIRDIsARouterToo is for BIRD what the tests round routedCluster are for
// FRR. One starts BIRD for all.
func TestBIRDIsARouterToo(t *testing.T) {
	if why := lab.UnableBIRD(); why != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", why)
	}
	l := cluster(t)
	must(t, l.Routers.StartBIRD(t.Context(), birdConfig(l)))
	t.Cleanup(func() {
		p, err := l.Processes.Process(lab.BIRD)
		must(t, err)
		must(t, p.Terminate(context.Background()))
	})
	must(t, l.Cluster.Apply(t.Context(), birds))
	t.Cleanup(func() {
		_, err := l.Cluster.KubectlInput(context.Background(), birds, "delete", "--wait=false", "-f", "-")
		must(t, err)
	})
	everywhere := serveWith(t, l, "everywhere", "{belfry.dev/address-pool: birds}")
	near := serveWith(t, l, "nearby", "{belfry.dev/address-pool: birds}", "externalTrafficPolicy: Local")
	all := slices.Concat(everywhere, near)
	for _, a := range all {
		leads(t, l, a, l.Network.Nodes()...)
	}

	t.Run("it spreads connections over the nodes", func(t *testing.T) {
		for _, a := range all {
			reached(t, l, a, len(l.Network.Nodes()))
		}
		announcedBecomes(t, l, "nearby", "True", "advertised by BGP from 3 nodes")
	})

	t.Run("it follows the endpoints of a Local Service", func(t *testing.T) {
		t.Cleanup(func() { must(t, l.Machines.Reinstate(context.Background(), "node2")) })
		must(t, l.Machines.Withdraw(t.Context(), "node2"))
		for _, a := range near {
			leads(t, l, a, "node1", "node3")
			birdHas(t, l, a, "node1", "node3")
		}
		must(t, l.Machines.Reinstate(t.Context(), "node2"))
		for _, a := range near {
			leads(t, l, a, l.Network.Nodes()...)
		}
	})

	t.Run("it leaves a drained node, and nothing is lost", func(t *testing.T) {
		// IPv4 alone: BIRD 2.0 changes a route of IPv6 in the kernel by deleting it
		// first, and what comes in between is lost by that.
		stop := undisturbed(t, l, []netip.Addr{everywhere[0], near[0]})
		drainedAndBack(t, l, all, birdHas)
		stop()
	})

	t.Run("it misses a node that dies", func(t *testing.T) {
		must(t, l.Network.CutLink(t.Context(), "node3"))
		t.Cleanup(func() { must(t, l.Network.HealLink(context.Background(), "node3")) })
		for _, a := range all {
			leads(t, l, a, "node1", "node2")
		}
		for _, a := range near {
			reached(t, l, a, 2)
		}
		must(t, l.Network.HealLink(t.Context(), "node3"))
		for _, a := range all {
			leads(t, l, a, l.Network.Nodes()...)
		}
	})

	t.Run("it forwards while a speaker is replaced, and nothing is lost", func(t *testing.T) {
		for _, peer := range []string{"bird4", "bird6"} {
			edited(t, l, peer, `{"gracefulRestart":{"enabled":true,"restartTime":"120s"}}`, `{"gracefulRestart":null}`)
		}
		state := func(family, text string) error {
			out, err := l.Routers.Birdc(t.Context(), "show protocols all node2_"+family)
			if err == nil && !strings.Contains(out, text) {
				err = errors.New(out)
			}
			return err
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			// Of both ends, the second is ours.
			eventually(t, 30*time.Second, "graceful restart is agreed on with node2", func() error {
				return errors.Join(state(family, "Established"), state(family, "Restart time: 120"))
			})
		}
		for _, a := range all {
			birdHas(t, l, a, l.Network.Nodes()...)
			leads(t, l, a, l.Network.Nodes()...)
		}
		stop := undisturbed(t, l, all)
		p, err := l.Processes.Process(lab.SpeakerOn("node2"))
		must(t, err)
		must(t, p.Terminate(t.Context()))
		for _, family := range []string{"ipv4", "ipv6"} {
			eventually(t, 30*time.Second, "BIRD waits for node2", func() error { return state(family, "Neighbor graceful restart active") })
		}
		for _, a := range all {
			birdHas(t, l, a, l.Network.Nodes()...)
			if got := nextHops(t, l, a); !slices.Equal(got, l.Network.Nodes()) {
				t.Errorf("while the speaker is away, %v goes to %v", a, got)
			}
		}
		must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn("node2")))
		for _, family := range []string{"ipv4", "ipv6"} {
			eventually(t, 60*time.Second, "the next speaker has the session", func() error { return state(family, "Established") })
		}
		for _, a := range all {
			birdHas(t, l, a, l.Network.Nodes()...)
			leads(t, l, a, l.Network.Nodes()...)
		}
		stop()
	})
}
