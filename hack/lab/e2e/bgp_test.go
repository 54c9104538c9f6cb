package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// The router is FRR, AS 64513; the nodes are AS 64512. Addresses of the pool
// "routed" are on no segment, so that whoever reaches one does so by the router.
const (
	routerAS = 64513
	nodeAS   = 64512

	routed = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: routed}
spec:
  autoAssign: false
  addresses: [203.0.113.0/24, "2001:db8:113::/120"]
---
apiVersion: belfry.dev/v1beta1
kind: BGPAdvertisement
metadata: {name: routed}
spec:
  ipAddressPools: [routed]
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: tor4}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1, holdTime: 9s, connectTime: 1s}
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: tor6}
spec: {myASN: 64512, peerASN: 64513, peerAddress: "2001:db8:51::1", holdTime: 9s, connectTime: 1s}
`
)

// frrConfig makes every node a neighbor over IPv4 and over IPv6.
func frrConfig(l *lab.Lab) string {
	lines := []string{
		fmt.Sprintf("router bgp %d", routerAS), " bgp router-id 198.51.100.1", " no bgp ebgp-requires-policy",
		" no bgp default ipv4-unicast", " bgp graceful-restart-disable",
	}
	var four, six []string
	for _, node := range l.Nodes() {
		v4, v6 := l.Addresses(node)
		for _, a := range []netip.Addr{v4, v6} {
			n := " neighbor " + a.String()
			lines = append(lines, n+fmt.Sprintf(" remote-as %d", nodeAS), n+" passive", n+" timers 1 3")
		}
		four = append(four, "  neighbor "+v4.String()+" activate")
		six = append(six, "  neighbor "+v6.String()+" activate")
	}
	lines = append(lines, " address-family ipv4 unicast", "  maximum-paths 8")
	lines = append(append(lines, four...), " exit-address-family", " address-family ipv6 unicast", "  maximum-paths 8")
	return strings.Join(append(append(lines, six...), " exit-address-family", "exit"), "\n") + "\n"
}

var installRouter = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(installed.StartFRR(ctx, frrConfig(installed)), installed.Apply(ctx, routed))
})

// routedCluster returns the lab with sessions between every node and the router.
func routedCluster(t *testing.T) *lab.Lab {
	t.Helper()
	if why := lab.UnableFRR(); why != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", why)
	}
	l := cluster(t)
	must(t, installRouter())
	for _, node := range l.Nodes() {
		established(t, l, node)
	}
	return l
}

// A neighbor is what FRR says of one.
type neighbor struct {
	State       string `json:"bgpState"`
	Established int    `json:"connectionsEstablished"`
	Dropped     int    `json:"connectionsDropped"`
}

// neighbors are FRR's, by address.
func neighbors(t *testing.T, l *lab.Lab) map[netip.Addr]neighbor {
	t.Helper()
	var all map[netip.Addr]neighbor
	must(t, l.VtyshJSON(t.Context(), "show bgp neighbors", &all))
	return all
}

// established waits until FRR has both sessions with a node.
func established(t *testing.T, l *lab.Lab, node string) {
	t.Helper()
	eventually(t, 30*time.Second, "FRR's sessions with "+node, func() error {
		v4, v6 := l.Addresses(node)
		all := neighbors(t, l)
		for _, a := range []netip.Addr{v4, v6} {
			if all[a].State != "Established" {
				return fmt.Errorf("with %s it is %q", a, all[a].State)
			}
		}
		return nil
	})
}

// nextHops returns the nodes to which the router's kernel sends the traffic of an
// address, by the one route that is for it alone.
func nextHops(t *testing.T, l *lab.Lab, address netip.Addr) []string {
	t.Helper()
	family := "-4"
	if address.Is6() {
		family = "-6"
	}
	out, err := l.Exec(t.Context(), lab.Router, "ip", family, "route", "show", "exact", netip.PrefixFrom(address, address.BitLen()).String(), "proto", "bgp")
	must(t, err)
	var nodes []string
	fields := strings.Fields(out)
	for i, f := range fields {
		if f != "via" {
			continue
		}
		via, err := netip.ParseAddr(fields[i+1])
		must(t, err)
		for _, node := range l.Nodes() {
			if v4, v6 := l.Addresses(node); via == v4 || via == v6 {
				nodes = append(nodes, node)
			}
		}
	}
	slices.Sort(nodes)
	return nodes
}

// leads waits until the router sends an address's traffic to just these nodes.
func leads(t *testing.T, l *lab.Lab, address netip.Addr, nodes ...string) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("the router sends %s to %v", address, nodes), func() error {
		if got := nextHops(t, l, address); !slices.Equal(got, nodes) {
			return fmt.Errorf("it sends to %v", got)
		}
		return nil
	})
}

// announcedBecomes waits until a Service's condition says so.
func announcedBecomes(t *testing.T, l *lab.Lab, service, status, text string) {
	t.Helper()
	eventually(t, 20*time.Second, "Service "+service+" says that it is announced: "+status, func() error {
		out, err := l.Kubectl(t.Context(), "get", "service", service, `--output=jsonpath={range .status.conditions[?(@.type=="belfry.dev/Announced")]}{.status} {.reason}: {.message}{end}`)
		if err == nil && (!strings.HasPrefix(out, status+" ") || !strings.Contains(out, text)) {
			err = fmt.Errorf("it says %q, want %s and %q", out, status, text)
		}
		return err
	})
}

// serveRouted creates a Service whose addresses are of the pool "routed".
func serveRouted(t *testing.T, l *lab.Lab, name string, extra ...string) []netip.Addr {
	t.Helper()
	return serveWith(t, l, name, "{belfry.dev/address-pool: routed}", extra...)
}

// reached asks a Service until backends on so many nodes have answered.
func reached(t *testing.T, l *lab.Lab, address netip.Addr, nodes int) {
	t.Helper()
	seen := map[string]bool{}
	eventually(t, 20*time.Second, fmt.Sprintf("connections to %s end up on %d nodes", address, nodes), func() error {
		r, err := l.Curl(t.Context(), address, 80)
		if err != nil {
			return err
		}
		if seen[r.Node] = true; len(seen) < nodes {
			return fmt.Errorf("on %v so far", seen)
		}
		return nil
	})
}

func TestARouterSpreadsAServiceOverTheNodes(t *testing.T) {
	l := routedCluster(t)
	addresses := serveRouted(t, l, "spread")
	for _, a := range addresses {
		leads(t, l, a, l.Nodes()...)
		reached(t, l, a, len(l.Nodes()))
	}
	must(t, l.Apply(t.Context(), "apiVersion: v1\nkind: Service\nmetadata: {name: spread}\nspec: {selector: {app: nobody}}\n"))
	for _, a := range addresses {
		leads(t, l, a)
	}
}
