package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/belfrylb/belfry/api/v1beta1"
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
		" no bgp default ipv4-unicast",
	}
	var four, six []string
	for _, node := range l.Network.Nodes() {
		v4, v6 := l.Network.Addresses(node)
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
	return errors.Join(installed.Routers.StartFRR(ctx, frrConfig(installed)), installed.Cluster.Apply(ctx, routed))
})

// routedCluster returns the lab with sessions between every node and the router.
func routedCluster(t *testing.T) *lab.Lab {
	t.Helper()
	if why := lab.UnableFRR(); why != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", why)
	}
	l := cluster(t)
	must(t, installRouter())
	for _, node := range l.Network.Nodes() {
		established(t, l, node)
	}
	return l
}

// A neighbor is what FRR says of one.
type neighbor struct {
	State       string `json:"bgpState"`
	Established int    `json:"connectionsEstablished"`
	Dropped     int    `json:"connectionsDropped"`
	// HoldTime is what both agreed on, in milliseconds.
	HoldTime int `json:"bgpTimerHoldTimeMsecs"`
}

// neighbors are FRR's, by address.
func neighbors(t *testing.T, l *lab.Lab) map[netip.Addr]neighbor {
	t.Helper()
	var all map[netip.Addr]neighbor
	must(t, l.Routers.VtyshJSON(t.Context(), "show bgp neighbors", &all))
	return all
}

// established waits until FRR has both sessions with a node.
func established(t *testing.T, l *lab.Lab, node string) {
	t.Helper()
	eventually(t, 30*time.Second, "FRR's sessions with "+node, func() error {
		v4, v6 := l.Network.Addresses(node)
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
	out, err := l.Network.Exec(t.Context(), lab.Router, "ip", family, "route", "show", "exact", netip.PrefixFrom(address, address.BitLen()).String())
	must(t, err)
	var nodes []string
	fields := strings.Fields(out)
	for i, f := range fields {
		if f != "via" {
			continue
		}
		via, err := netip.ParseAddr(fields[i+1])
		must(t, err)
		for _, node := range l.Network.Nodes() {
			if v4, v6 := l.Network.Addresses(node); via == v4 || via == v6 {
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
		out, err := l.Cluster.Kubectl(t.Context(), "get", "service", service, `--output=jsonpath={range .status.conditions[?(@.type=="belfry.dev/Announced")]}{.status} {.reason}: {.message}{end}`)
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
		r, err := l.Observers.Curl(t.Context(), address, 80)
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
	_, err := l.Cluster.Kubectl(t.Context(), "expose", "deployment", "web", "--name=spread", "--port=80", "--type=LoadBalancer",
		`--overrides={"metadata":{"annotations":{"belfry.dev/address-pool":"routed"}},"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	must(t, err)
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "service", "spread", "--ignore-not-found")
	})
	var addresses []netip.Addr
	eventually(t, 20*time.Second, "the Service gets two addresses", func() error {
		if addresses = ingress(t, l, "spread"); len(addresses) != 2 {
			return fmt.Errorf("it has %v", addresses)
		}
		return nil
	})
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
		reached(t, l, a, len(l.Network.Nodes()))
	}
	announcedBecomes(t, l, "spread", "True", "advertised by BGP from 3 nodes")
	_, err = l.Cluster.Kubectl(t.Context(), "delete", "service", "spread")
	must(t, err)
	for _, a := range addresses {
		leads(t, l, a)
	}
}

func TestARouterFollowsTheEndpointsOfALocalService(t *testing.T) {
	l := routedCluster(t)
	addresses := serveRouted(t, l, "near", "externalTrafficPolicy: Local")
	t.Cleanup(func() {
		for _, node := range l.Network.Nodes() {
			must(t, l.Machines.Reinstate(context.Background(), node))
		}
	})
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
	}
	must(t, l.Machines.Withdraw(t.Context(), "node2"))
	v4, v6 := l.Network.Addresses(lab.Client)
	for i, a := range addresses {
		leads(t, l, a, "node1", "node3")
		eventually(t, 10*time.Second, "curl reaches a backend that sees the client", func() error {
			r, err := l.Observers.Curl(t.Context(), a, 80)
			if err == nil && (r.Node == "node2" || r.Client != []netip.Addr{v4, v6}[i]) {
				err = fmt.Errorf("%+v", r)
			}
			return err
		})
	}
	must(t, l.Machines.Withdraw(t.Context(), "node1"))
	must(t, l.Machines.Withdraw(t.Context(), "node3"))
	for _, a := range addresses {
		leads(t, l, a)
	}
	announcedBecomes(t, l, "near", "False", "no endpoint of the address's family is ready")
	must(t, l.Machines.Reinstate(t.Context(), "node1"))
	for _, a := range addresses {
		leads(t, l, a, "node1")
	}
}

// The one endpoint moves from node to node, as slowly as updates should be: what
// terminates serves on for a while.
func TestARollingUpdateOfALocalServiceLosesNoTraffic(t *testing.T) {
	l := routedCluster(t)
	must(t, l.Cluster.Apply(t.Context(), fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: rolling}
spec:
  replicas: 1
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: rolling}}
  template:
    metadata:
      labels: {app: rolling}
      annotations: {%s: 4s}
    spec:
      containers: [{name: web, image: lab/web, ports: [{containerPort: 80}]}]
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: rolling}}}
`, lab.AnnotationLinger)))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "deployment", "rolling") })
	addresses := serveRouted(t, l, "rolling", "externalTrafficPolicy: Local")
	_, err := l.Cluster.Kubectl(t.Context(), "patch", "service", "rolling", `--patch={"spec":{"selector":{"app":"rolling"}}}`)
	must(t, err)
	at := func(a netip.Addr, but string) (node string) {
		t.Helper()
		eventually(t, 20*time.Second, "one node, not "+but+", has "+a.String(), func() error {
			got := nextHops(t, l, a)
			if len(got) != 1 || got[0] == but {
				return fmt.Errorf("the router sends to %v", got)
			}
			node = got[0]
			return nil
		})
		return node
	}
	var before []string
	for _, a := range addresses {
		before = append(before, at(a, ""))
		reached(t, l, a, 1)
	}
	stop := undisturbed(t, l, addresses)
	_, err = l.Cluster.Kubectl(t.Context(), "rollout", "restart", "deployment/rolling")
	must(t, err)
	for i, a := range addresses {
		at(a, before[i])
	}
	stop()
}

// Nodes come and go while the router sends on to the others. It must not be without the
// route for a moment, or a change that was planned loses a connection.
func TestTheRouterReplacesARouteInOneStep(t *testing.T) {
	l := routedCluster(t)
	addresses := serveRouted(t, l, "replaced", "externalTrafficPolicy: Local")
	t.Cleanup(func() { must(t, l.Machines.Reinstate(context.Background(), "node2")) })
	var seen bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	monitor := l.Network.Command(ctx, lab.Router, "ip", "-oneline", "monitor", "route")
	monitor.Stdout = &seen
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
	}
	must(t, monitor.Start())
	for range 2 {
		must(t, l.Machines.Withdraw(t.Context(), "node2"))
		for _, a := range addresses {
			leads(t, l, a, "node1", "node3")
		}
		must(t, l.Machines.Reinstate(t.Context(), "node2"))
		for _, a := range addresses {
			leads(t, l, a, l.Network.Nodes()...)
		}
	}
	cancel()
	_ = monitor.Wait() // it ends by our signal
	for _, a := range addresses {
		changes := strings.Count("\n"+seen.String(), "\n"+a.String()+" ")
		if changes == 0 || strings.Contains(seen.String(), "Deleted "+a.String()+" ") {
			t.Errorf("%d changes of %s were seen, and none may delete it:\n%s", changes, a, seen.String())
		}
	}
}

func TestARouterLosesANodeThatDies(t *testing.T) {
	l := routedCluster(t)
	addresses := serveRouted(t, l, "survivor", "externalTrafficPolicy: Local")
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
	}
	must(t, l.Network.CutLink(t.Context(), "node3"))
	t.Cleanup(func() { must(t, l.Network.HealLink(context.Background(), "node3")) })
	v4, v6 := l.Network.Addresses("node3")
	eventually(t, 20*time.Second, "FRR has lost its sessions with node3", func() error {
		all := neighbors(t, l)
		for _, a := range []netip.Addr{v4, v6} {
			if all[a].State == "Established" {
				return fmt.Errorf("its session with %s is %+v", a, all[a])
			}
		}
		return nil
	})
	for _, a := range addresses {
		leads(t, l, a, "node1", "node2")
	}
	for _, a := range addresses {
		reached(t, l, a, 2)
	}
}

// BFD's timers are shorter than BGP's: a node that dies is missed long before a session
// would end by its hold timer, which is 90 seconds here. BFD's are long enough for a
// machine that does something else for a second or two.
func TestBFDTellsOfANodeThatDies(t *testing.T) {
	l := routedCluster(t)
	v4, v6 := l.Network.Addresses("node3")
	sessions := []netip.Addr{v4, v6}
	router := func(ctx context.Context, settings ...string) {
		t.Helper()
		commands := []string{"configure terminal", fmt.Sprintf("router bgp %d", routerAS)}
		for _, a := range sessions {
			for _, setting := range settings {
				commands = append(commands, fmt.Sprintf(setting, a))
			}
		}
		_, err := l.Routers.Vtysh(ctx, commands...)
		must(t, err)
	}
	addresses := serveRouted(t, l, "watched", "externalTrafficPolicy: Local")
	must(t, l.Cluster.Apply(t.Context(), "apiVersion: belfry.dev/v1beta1\nkind: BFDProfile\nmetadata: {name: patient}\nspec: {receiveInterval: 1000, transmitInterval: 1000}\n"))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "bfdprofile", "patient") })
	router(t.Context(), "neighbor %s timers 30 90", "neighbor %s bfd")
	for _, peer := range []string{"tor4", "tor6"} {
		edited(t, l, peer, `{"bfdProfile":"patient","holdTime":"90s"}`, `{"bfdProfile":null,"holdTime":"9s"}`)
	}
	// At the router first, which takes the end of ours for a failure.
	t.Cleanup(func() { router(context.Background(), "no neighbor %s bfd", "neighbor %s timers 1 3") })
	up := func() {
		t.Helper()
		eventually(t, 60*time.Second, "all that is watched is up", func() error {
			metrics, err := l.Observers.Metrics(t.Context(), "node3", speakerMetrics)
			for _, peer := range []string{"tor4", "tor6"} {
				if series := `belfry_bgp_bfd_up{peer="` + peer + `"}`; err == nil && metrics[series] != 1 {
					err = fmt.Errorf("%s is %v", series, metrics[series])
				}
			}
			if err != nil {
				return err
			}
			var watched []struct{ Peer, Status string }
			if err := l.Routers.VtyshJSON(t.Context(), "show bfd peers", &watched); err != nil {
				return err
			}
			up := 0
			for _, p := range watched {
				if p.Status == "up" {
					up++
				}
			}
			if up != len(sessions) {
				return fmt.Errorf("FRR has %+v", watched)
			}
			all := neighbors(t, l)
			for _, a := range sessions {
				if n := all[a]; n.State != "Established" || n.HoldTime != 90_000 {
					return fmt.Errorf("FRR's session with %s is %+v", a, n)
				}
			}
			for _, a := range addresses {
				if got := nextHops(t, l, a); !slices.Equal(got, l.Network.Nodes()) {
					return fmt.Errorf("the router sends %s to %v", a, got)
				}
			}
			return nil
		})
	}
	up()
	must(t, l.Network.CutLink(t.Context(), "node3"))
	t.Cleanup(func() { must(t, l.Network.HealLink(context.Background(), "node3")) })
	for _, a := range sessions {
		// Routes prove nothing: a router prefers others to a node whose endpoints have
		// just come (RFC 8326). And the reason that FRR tells may be one of before until
		// it has another, as each session inherits that of the connection it came by.
		eventually(t, 30*time.Second, "FRR says that BFD lost the session with "+a.String(), func() error {
			if n := neighbors(t, l)[a]; n.State == "Established" {
				return fmt.Errorf("it is %+v", n)
			}
			out, err := l.Routers.Vtysh(t.Context(), "show bgp neighbors "+a.String())
			if err != nil {
				return err
			}
			_, reset, _ := strings.Cut(out, "Last reset")
			if reset = reset[:min(len(reset), 120)]; !strings.Contains(reset, "BFD") {
				return fmt.Errorf("its last reset is%s", reset)
			}
			return nil
		})
	}
	for _, a := range addresses {
		leads(t, l, a, "node1", "node2")
	}
	must(t, l.Network.HealLink(t.Context(), "node3"))
	up()
}

// edited changes a BGPPeer while a test runs.
func edited(t *testing.T, l *lab.Lab, peer, spec, before string) {
	t.Helper()
	patch := func(ctx context.Context, spec string) error {
		_, err := l.Cluster.Kubectl(ctx, "patch", "bgppeer", peer, "--type=merge", "--patch={\"spec\":"+spec+"}")
		return err
	}
	must(t, patch(t.Context(), spec))
	t.Cleanup(func() { must(t, patch(context.Background(), before)) })
}

// accepted waits for the reason of a BGPPeer's condition Accepted.
func accepted(t *testing.T, l *lab.Lab, peer, reason string) {
	t.Helper()
	eventually(t, 20*time.Second, "BGPPeer "+peer+" says "+reason, func() error {
		out, err := l.Cluster.Kubectl(t.Context(), "get", "bgppeer", peer, `--output=jsonpath={.status.conditions[?(@.type=="Accepted")].reason}`)
		if err == nil && out != reason {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
}

func TestTheYoungerOfTwoPeersForOneRouterSaysSo(t *testing.T) {
	l := routedCluster(t)
	before := neighbors(t, l)
	must(t, l.Cluster.Apply(t.Context(), "apiVersion: belfry.dev/v1beta1\nkind: BGPPeer\nmetadata: {name: also-tor6}\nspec: {myASN: 64512, peerASN: 64513, peerAddress: \"2001:db8:51::1\"}\n"))
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "bgppeer", "also-tor6", "--ignore-not-found")
	})
	accepted(t, l, "also-tor6", "Conflict")
	accepted(t, l, "tor6", "Accepted")
	said, err := l.Cluster.Kubectl(t.Context(), "get", "bgppeer", "also-tor6", `--output=jsonpath={.status.conditions[?(@.type=="Accepted")].message}`)
	must(t, err)
	if !strings.Contains(said, "the older BGPPeer tor6 is for the same router and nodes; this one holds no session") {
		t.Errorf("it says %q", said)
	}
	_, err = l.Cluster.Kubectl(t.Context(), "delete", "bgppeer", "also-tor6")
	must(t, err)
	for _, a := range serveRouted(t, l, "after-it") { // whose routes come after all that was said before
		leads(t, l, a, l.Network.Nodes()...)
	}
	for a, n := range neighbors(t, l) {
		if n != before[a] {
			t.Errorf("FRR's session with %s: %+v, before %+v", a, n, before[a])
		}
	}
}

// password makes the Secret that peers name, of a type and with a text.
func password(t *testing.T, l *lab.Lab, kind, text string) {
	t.Helper()
	_, err := l.Cluster.Kubectl(t.Context(), "delete", "secret", "routers", "--namespace="+lab.Namespace, "--ignore-not-found")
	must(t, err)
	must(t, l.Cluster.Apply(t.Context(), fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: routers, namespace: %s}\ntype: %s\nstringData: {username: x, password: %q}\n", lab.Namespace, kind, text)))
}

func TestPasswordsAreKeptAndKeptSecret(t *testing.T) {
	l := routedCluster(t)
	const wrong, first, second = "n0t-what-it-is", "Tr0ub4dor-and-three", "c0rrect-horse-battery"
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "secret", "routers", "--namespace="+lab.Namespace, "--ignore-not-found")
	})
	secret := func(text string) {
		t.Helper()
		commands := []string{"configure terminal", fmt.Sprintf("router bgp %d", routerAS)}
		for _, node := range l.Network.Nodes() {
			v4, v6 := l.Network.Addresses(node)
			for _, a := range []netip.Addr{v4, v6} {
				if text == "" {
					commands = append(commands, "no neighbor "+a.String()+" password")
				} else {
					commands = append(commands, "neighbor "+a.String()+" password "+text)
				}
			}
		}
		_, err := l.Routers.Vtysh(context.Background(), commands...)
		must(t, err)
	}
	t.Cleanup(func() { secret("") })
	for _, peer := range []string{"tor4", "tor6"} {
		edited(t, l, peer, `{"passwordSecret":{"name":"routers"}}`, `{"passwordSecret":null}`)
		accepted(t, l, peer, "SecretMissing")
	}
	password(t, l, "Opaque", first)
	accepted(t, l, "tor6", "SecretInvalid")
	secret(first)
	// One that never matched: there is no session, and each speaker says why.
	before := neighbors(t, l)
	password(t, l, "kubernetes.io/basic-auth", wrong)
	accepted(t, l, "tor4", "Accepted")
	eventually(t, 60*time.Second, "each SpeakerStatus suspects the password", func() error {
		var errs error
		for node, s := range speakerStatuses(t, l) {
			for _, session := range s.Status.BGP.Sessions {
				if session.State == v1beta1.SessionEstablished || !strings.HasPrefix(session.LastError, "MD5 mismatch suspected: SYN unanswered by ") {
					errs = errors.Join(errs, fmt.Errorf("%s: %+v", node, session))
				}
			}
			if len(s.Status.BGP.Sessions) != 2 || s.Status.BGP.Up != 0 {
				errs = errors.Join(errs, fmt.Errorf("%s: %+v", node, s.Status.BGP))
			}
		}
		return errs
	})
	for a, n := range neighbors(t, l) {
		if n.State == "Established" || n.Established != before[a].Established {
			t.Errorf("FRR's session with %s: %+v, before %+v", a, n, before[a])
		}
	}
	password(t, l, "kubernetes.io/basic-auth", first)
	accepted(t, l, "tor4", "Accepted")
	for _, node := range l.Network.Nodes() {
		established(t, l, node)
	}
	// Rotated on one side: the session is lost, and had again as soon as the other
	// side follows.
	password(t, l, "kubernetes.io/basic-auth", second)
	v4, _ := l.Network.Addresses("node1")
	eventually(t, 30*time.Second, "the session is lost", func() error {
		if n := neighbors(t, l)[v4]; n.State == "Established" {
			return errors.New("it is established")
		}
		return nil
	})
	eventually(t, 30*time.Second, "the speaker suspects the password", func() error {
		metrics, err := l.Observers.Metrics(t.Context(), "node1", speakerMetrics)
		if err == nil && metrics[`belfry_bgp_session_last_error{cause="MD5Suspected",peer="tor4"}`] != 1 {
			err = errors.New("it does not")
		}
		return err
	})
	secret(second)
	for _, node := range l.Network.Nodes() {
		established(t, l, node)
	}

	// Nothing that people look at shows either.
	seen := map[string]string{}
	for _, p := range l.Processes.All() {
		if !strings.HasPrefix(p.Name, "frr/") {
			log, err := os.ReadFile(p.Log)
			must(t, err)
			seen["log of "+p.Name] = string(log)
		}
	}
	for _, node := range l.Network.Nodes() {
		out, err := l.Network.Exec(t.Context(), node, "curl", "--silent", fmt.Sprintf("http://127.0.0.1:%d/metrics", speakerMetrics))
		must(t, err)
		seen["metrics of "+node] = out
	}
	for _, kinds := range []string{"bgppeers,bgpadvertisements,bfdprofiles,communities", "speakerstatuses", "services", "nodes", "events"} {
		out, err := l.Cluster.Kubectl(t.Context(), "get", kinds, "--all-namespaces", "--output=yaml")
		must(t, err)
		seen[kinds] = out
	}
	for where, text := range seen {
		if slices.ContainsFunc([]string{wrong, first, second}, func(secret string) bool { return strings.Contains(text, secret) }) {
			t.Errorf("a password is in: %s", where)
		}
		if len(text) == 0 && !strings.HasPrefix(where, "log") {
			t.Errorf("nothing is in: %s", where)
		}
	}
}

// carried waits until every node's kube-proxy knows what to do with addresses: a
// route may lead to a node before it does.
func carried(t *testing.T, l *lab.Lab, addresses []netip.Addr) {
	t.Helper()
	for _, node := range l.Network.Nodes() {
		for _, a := range addresses {
			eventually(t, 30*time.Second, node+" passes connections to "+a.String()+" on", func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := l.Observers.Get(ctx, node, a, 80)
				return err
			})
		}
	}
}

// undisturbed asks for addresses by HTTP until it is stopped, and tells what went
// wrong but for connections that were open when their path changed: a router that
// shares traffic out by hash may send the rest of one to another node, which then
// ends it.
func undisturbed(t *testing.T, l *lab.Lab, addresses []netip.Addr) (stop func()) {
	t.Helper()
	carried(t, l, addresses)
	var loads []*lab.Load
	for _, a := range addresses {
		loads = append(loads, l.Observers.Load(a, 80, 20*time.Millisecond))
	}
	return func() {
		t.Helper()
		for i, load := range loads {
			r := load.Stop()
			cut := 0
			for _, f := range r.Failed {
				if errors.Is(f.Err, syscall.ECONNRESET) {
					cut++
				} else {
					t.Errorf("%v: a request failed at %v: %v", addresses[i], f.Begun.Format(time.TimeOnly), f.Err)
				}
			}
			if cut > max(3, r.Requests/50) {
				t.Errorf("%v: %d connections were cut", addresses[i], cut)
			}
			t.Logf("%v: %v", addresses[i], r)
		}
	}
}

func TestASpeakerThatIsStoppedLosesNoTraffic(t *testing.T) {
	l := routedCluster(t)
	addresses := serveRouted(t, l, "stopped")
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
		reached(t, l, a, 1)
	}
	stop := undisturbed(t, l, addresses)
	p, err := l.Processes.Process(lab.SpeakerOn("node2"))
	must(t, err)
	must(t, p.Signal(syscall.SIGTERM))
	for _, a := range addresses {
		leads(t, l, a, "node1", "node3")
	}
	must(t, p.Wait(t.Context()))
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn("node2")))
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
	}
	stop()
}

// heardFrom waits until these nodes, and no other, advertise an address to FRR.
// That is more than where traffic goes: FRR prefers others to a node that says
// that it is leaving, long before it has.
func heardFrom(t *testing.T, l *lab.Lab, address netip.Addr, nodes ...string) {
	t.Helper()
	family, want := "ipv4", []netip.Addr(nil)
	if address.Is6() {
		family = "ipv6"
	}
	for _, node := range nodes {
		v4, v6 := l.Network.Addresses(node)
		want = append(want, map[bool]netip.Addr{true: v4, false: v6}[address.Is4()])
	}
	slices.SortFunc(want, netip.Addr.Compare)
	eventually(t, 20*time.Second, fmt.Sprintf("%v is advertised by %v", address, nodes), func() error {
		var table struct {
			Paths []struct{ Peer struct{ PeerID netip.Addr } }
		}
		if err := l.Routers.VtyshJSON(t.Context(), fmt.Sprintf("show bgp %s unicast %v", family, netip.PrefixFrom(address, address.BitLen())), &table); err != nil {
			return err
		}
		var got []netip.Addr
		for _, path := range table.Paths {
			got = append(got, path.Peer.PeerID)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			return fmt.Errorf("it is by %v", got)
		}
		return nil
	})
}

func TestADrainedNodeIsLeftByTheRouterAndComesBack(t *testing.T) {
	l := routedCluster(t)
	addresses := serveRouted(t, l, "drained")
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
		reached(t, l, a, 1)
	}
	stop := undisturbed(t, l, addresses)
	drainedAndBack(t, l, addresses, heardFrom)
	stop()
}

// drainedAndBack drains node1, waits until routers know of the addresses from the other
// nodes alone, and from all again when it is back. Heard waits until the router in
// question has them from just some nodes.
func drainedAndBack(t *testing.T, l *lab.Lab, addresses []netip.Addr, heard func(*testing.T, *lab.Lab, netip.Addr, ...string)) {
	t.Helper()
	must(t, drain(t.Context(), l, "node1"))
	t.Cleanup(func() { _ = undrain(context.Background(), l, "node1") })
	for _, a := range addresses {
		leads(t, l, a, "node2", "node3")
	}
	for _, a := range addresses {
		heard(t, l, a, "node2", "node3")
	}
	must(t, undrain(t.Context(), l, "node1"))
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
	}
}

func TestASpeakerIsReplacedWhileTheRouterForwards(t *testing.T) {
	l := routedCluster(t)
	for _, peer := range []string{"tor4", "tor6"} {
		edited(t, l, peer, `{"gracefulRestart":{"enabled":true,"restartTime":"60s"}}`, `{"gracefulRestart":null}`)
	}
	addresses := serveRouted(t, l, "replaced")
	for _, node := range l.Network.Nodes() {
		eventually(t, 30*time.Second, "graceful restart is agreed on with "+node, func() error {
			metrics, err := l.Observers.Metrics(t.Context(), node, speakerMetrics)
			for _, peer := range []string{"tor4", "tor6"} {
				if err == nil && (metrics[`belfry_bgp_session_up{peer="`+peer+`"}`] != 1 || metrics[`belfry_bgp_prefixes{kind="sent",peer="`+peer+`"}`] < 1) {
					err = errors.New(peer + " is not up with its route")
				}
			}
			return err
		})
	}
	for _, a := range addresses {
		leads(t, l, a, l.Network.Nodes()...)
	}
	stop := undisturbed(t, l, addresses)
	v4, _ := l.Network.Addresses("node2")
	before := neighbors(t, l)[v4]
	var gone []string
	watch := time.NewTicker(100 * time.Millisecond)
	defer watch.Stop()
	done := make(chan error, 1)
	go func() { done <- l.Processes.Restart(context.Background(), lab.SpeakerOn("node2")) }()
	for restarted := false; !restarted; {
		select {
		case err := <-done:
			must(t, err)
			restarted = true
		case <-watch.C:
		}
		for _, a := range addresses {
			if got := nextHops(t, l, a); !slices.Equal(got, l.Network.Nodes()) {
				gone = append(gone, fmt.Sprintf("%v: %v", a, got))
			}
		}
	}
	eventually(t, 30*time.Second, "the new speaker has the session", func() error {
		for _, a := range addresses {
			if got := nextHops(t, l, a); !slices.Equal(got, l.Network.Nodes()) {
				gone = append(gone, fmt.Sprintf("%v: %v", a, got))
			}
		}
		if n := neighbors(t, l)[v4]; n.State != "Established" || n.Established == before.Established {
			return fmt.Errorf("%+v, before %+v", n, before)
		}
		return nil
	})
	if len(gone) > 0 {
		t.Errorf("the router sent traffic elsewhere meanwhile: %v", gone)
	}
	stop()
}

// followed waits until every speaker has done all that was asked of it so far: the
// router has what is said after that, a MED, of each address from each node.
func followed(t *testing.T, l *lab.Lab, addresses []netip.Addr, med int) {
	t.Helper()
	_, err := l.Cluster.Kubectl(t.Context(), "patch", "bgpadvertisement", "routed", "--type=merge",
		fmt.Sprintf(`--patch={"spec":{"med":%d,"asPathPrepend":0,"communities":null,"aggregationLength":32,"aggregationLengthV6":128}}`, med))
	must(t, err)
	for _, a := range addresses {
		family := "ipv4"
		if a.Is6() {
			family = "ipv6"
		}
		eventually(t, 20*time.Second, fmt.Sprintf("the router has %v with MED %d from every node", a, med), func() error {
			var table struct {
				Paths []struct{ Metric int }
			}
			if err := l.Routers.VtyshJSON(t.Context(), fmt.Sprintf("show bgp %s unicast %v", family, netip.PrefixFrom(a, a.BitLen())), &table); err != nil {
				return err
			}
			if len(table.Paths) != len(l.Network.Nodes()) || slices.ContainsFunc(table.Paths, func(p struct{ Metric int }) bool { return p.Metric != med }) {
				return fmt.Errorf("it has %+v", table.Paths)
			}
			return nil
		})
	}
}

func TestEditsResetNoSession(t *testing.T) {
	l := routedCluster(t)
	addresses := serveRouted(t, l, "edited")
	// What was edited before may have sessions to reset that are still up.
	followed(t, l, addresses, 4710)
	before := neighbors(t, l)
	rnd := rand.New(rand.NewPCG(1, 2))
	t.Cleanup(func() { must(t, l.Cluster.Apply(context.Background(), routed)) })
	client, err := kubernetes.NewForConfig(l.Cluster.AdminConfig())
	must(t, err)
	must(t, l.Cluster.Apply(t.Context(), "apiVersion: belfry.dev/v1beta1\nkind: Community\nmetadata: {name: edits}\nspec: {communities: [{name: vip, value: \"64512:1\"}]}\n"))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "community", "edits") })
	for range 200 {
		path, patch := "bgpadvertisements/routed", fmt.Sprintf(`{"spec":{"med":%d,"asPathPrepend":%d,"communities":["vip","64512:%d"]}}`, rnd.IntN(100), rnd.IntN(4), rnd.IntN(100))
		switch rnd.IntN(6) {
		case 0:
			path, patch = "bgppeers/"+[]string{"tor4", "tor6"}[rnd.IntN(2)], fmt.Sprintf(`{"spec":{"maximumPrefixes":%d,"connectTime":"%ds"}}`, 100+rnd.IntN(10), 1+rnd.IntN(5))
		case 1:
			path, patch = "bgppeers/"+[]string{"tor4", "tor6"}[rnd.IntN(2)], fmt.Sprintf(`{"metadata":{"labels":{"x":"%d"}}}`, rnd.IntN(100))
		case 2:
			path, patch = "communities/edits", fmt.Sprintf(`{"spec":{"communities":[{"name":"vip","value":"64512:%d"}]}}`, rnd.IntN(100))
		case 3:
			path, patch = "bgpadvertisements/routed", fmt.Sprintf(`{"spec":{"aggregationLength":%d,"aggregationLengthV6":%d}}`, 24+rnd.IntN(9), 120+rnd.IntN(9))
		case 4:
			path, patch = "ipaddresspools/routed", fmt.Sprintf(`{"metadata":{"labels":{"x":"%d"}}}`, rnd.IntN(100))
		}
		_, err := client.CoreV1().RESTClient().Patch(types.MergePatchType).AbsPath("/apis/belfry.dev/v1beta1/" + path).Body([]byte(patch)).DoRaw(t.Context())
		must(t, err)
	}
	must(t, l.Cluster.Apply(t.Context(), routed))
	followed(t, l, addresses, 4711)
	after := neighbors(t, l)
	for a, n := range before {
		if after[a].Established != n.Established || after[a].Dropped != n.Dropped || after[a].State != "Established" {
			t.Errorf("the session with %s: before %+v, after %+v", a, n, after[a])
		}
	}
}

// A hostile router takes any session and then says what is no BGP, over and over.
func hostile(t *testing.T, l *lab.Lab) {
	t.Helper()
	listener, err := l.Network.Listen(t.Context(), lab.Router, "tcp", "198.51.100.1:1179")
	must(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { listener.Close(); wg.Wait() })
	frame := func(kind byte, body ...byte) []byte {
		b := bytes.Repeat([]byte{0xff}, 16)
		return append(append(b, byte((19+len(body))>>8), byte(19+len(body)), kind), body...)
	}
	open := frame(1, 4, 0xfc, 1, 0, 9, 198, 51, 100, 1, 0)
	bad := [][]byte{
		frame(2, 0, 0, 0, 6, 0x80, 14, 3, 0, 1, 1),      // MP_REACH_NLRI of 3 bytes
		frame(2, 0, 0, 0, 7, 0xc0, 40, 4, 5, 0, 0, 0),   // a short prefix SID
		frame(2, 0xff, 0xff),                            // withdrawn routes longer than the message
		append(bytes.Repeat([]byte{0xff}, 16), 0, 5, 2), // a message shorter than its header
		append(bytes.Repeat([]byte{0}, 16), 0, 19, 4),   // no marker
		frame(9, 1, 2, 3),                               // no such message
	}
	wg.Go(func() {
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(append(append([]byte{}, open...), frame(4)...))
			for i := range 20 {
				_, _ = conn.Write(bad[(n+i)%len(bad)])
			}
			_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.(*net.TCPConn).SetLinger(0) // a reset, at last
			_ = conn.Close()
		}
	})
}

func TestAHostileRouterDisturbsNobodyElse(t *testing.T) {
	l := routedCluster(t)
	addresses := serve(t, l, "calm")
	probes := probeAll(t, l, addresses)
	before := neighbors(t, l)
	begun := time.Now()
	hostile(t, l)
	must(t, l.Cluster.Apply(t.Context(), "apiVersion: belfry.dev/v1beta1\nkind: BGPPeer\nmetadata: {name: hostile}\nspec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1, peerPort: 1179, connectTime: 1s}\n"))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "bgppeer", "hostile") })
	for _, node := range l.Network.Nodes() {
		eventually(t, 40*time.Second, "the speaker on "+node+" has had enough of it", func() error {
			metrics, err := l.Observers.Metrics(t.Context(), node, speakerMetrics)
			read, fell := metrics[`belfry_bgp_messages_total{direction="in",peer="hostile"}`], metrics[`belfry_bgp_session_flaps_total{peer="hostile"}`]
			if err == nil && (read < 15 || fell < 3) {
				err = fmt.Errorf("it has read %v messages, and lost %v sessions", read, fell)
			}
			return err
		})
	}
	for _, p := range probes {
		r := p.Stop().Since(begun)
		if none := r.Unanswered(); len(none) > 0 || len(r.Questions) == 0 {
			t.Errorf("%d questions were not answered:\n%v", len(none), r)
		}
	}
	after := neighbors(t, l)
	for a, n := range before {
		if after[a] != n {
			t.Errorf("FRR's session with %s: before %+v, after %+v", a, n, after[a])
		}
	}
}
