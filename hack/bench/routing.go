package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/gobgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// FRR runs on the lab's router. It takes sessions from the nodes, and from the
// addresses that a process of ours on the client's host speaks from.
const (
	routerAS, talkerAS = 64513, 64520

	router = `router bgp 64513
 bgp router-id 198.51.100.1
 no bgp ebgp-requires-policy
 bgp graceful-restart-disable
 neighbor nodes peer-group
 neighbor nodes remote-as 64512
 neighbor nodes passive
 neighbor talkers peer-group
 neighbor talkers remote-as 64520
 neighbor talkers passive
 bgp listen range 198.51.100.0/27 peer-group nodes
 bgp listen range 198.51.100.64/26 peer-group talkers
 address-family ipv4 unicast
  maximum-paths 8
 exit-address-family
exit
`
	routedConfiguration = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: routed}
spec:
  addresses: [203.0.113.0/24]
  autoAssign: false
---
apiVersion: belfry.dev/v1beta1
kind: BGPAdvertisement
metadata: {name: routed}
spec: {ipAddressPools: [routed]}
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: router}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1, peerPort: %d, holdTime: 9s, connectTime: 1s}
`
	// birdPort is where BIRD listens, beside FRR.
	frrPort, birdPort = 179, 1790

	birdHead = `router id 198.51.100.1;
protocol device {}
protocol kernel { merge paths on; ipv4 { export all; import none; }; }
`
	birdNeighbor = `protocol bgp %s { local 198.51.100.1 port %d as 64513; neighbor %v as 64512; passive on; hold time 9; ipv4 { import all; export none; }; }
`
	// manyPrefixes are told to the router over one session, and manySessions held
	// with it besides.
	manyPrefixes, manySessions = 10000, 32
	// resting is how long sessions are watched while nothing happens.
	resting = 10 * time.Second
)

// route starts FRR, unless it runs.
func (c *cluster) route(ctx context.Context) error {
	if c.routed {
		return nil
	}
	if why := lab.UnableFRR(); why != nil {
		return why
	}
	c.routed = true
	return c.Routers.StartFRR(ctx, router)
}

// routeByBIRD starts BIRD beside FRR, unless it runs.
func (c *cluster) routeByBIRD(ctx context.Context) error {
	if c.routedByBIRD {
		return nil
	}
	if why := lab.UnableBIRD(); why != nil {
		return why
	}
	conf := birdHead
	for _, node := range c.Network.Nodes() {
		v4, _ := c.Network.Addresses(node)
		conf += fmt.Sprintf(birdNeighbor, node, birdPort, v4)
	}
	c.routedByBIRD = true
	return c.Routers.StartBIRD(ctx, conf)
}

// updates has tcpdump print the UPDATEs that come to a port of the router: BGP messages
// whose type, their 19th octet, is 2 (RFC 4271, section 4.1).
const updates = "tcp dst port %d and tcp[((tcp[12] & 0xf0) >> 2) + 18] = 2"

// withdraw takes endpoints from a Service, with FRR as the router.
func withdraw(ctx context.Context, b *bench) error {
	told, took, err := b.takeAway(ctx, frrPort, (*cluster).route)
	if err == nil {
		b.found("bgp/told", slices.Max(told).Seconds(), "worst of %d; median %s", len(told), duration(median(told)))
		b.found("bgp/withdraw", slices.Max(took).Seconds(), "worst of %d; median %s", len(took), duration(median(took)))
	}
	return err
}

// withdrawFromBIRD does it with BIRD, which acts on a withdrawal at once.
func withdrawFromBIRD(ctx context.Context, b *bench) error {
	_, took, err := b.takeAway(ctx, birdPort, (*cluster).routeByBIRD)
	if err == nil {
		b.found("bgp/withdraw-bird", slices.Max(took).Seconds(), "worst of %d; median %s", len(took), duration(median(took)))
	}
	return err
}

// takeAway takes endpoints from a Service whose traffic stays on their nodes, and looks
// at the router's link until it is told so, and at its kernel until it sends nothing
// there any more.
func (b *bench) takeAway(ctx context.Context, port int, start func(*cluster, context.Context) error) (told, took []time.Duration, err error) {
	c, err := b.well(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := start(c, ctx); err != nil {
		return nil, nil, err
	}
	defer func() {
		_, failed := c.Cluster.Kubectl(context.WithoutCancel(ctx), "delete", "--ignore-not-found", "--wait=true", "service/routed", "endpointslice/routed", "bgppeer/router", "bgpadvertisement/routed", "ipaddresspool/routed")
		err = errors.Join(err, failed)
	}()
	address, err := c.serveRouted(ctx, port)
	if err != nil {
		return nil, nil, err
	}
	link, err := c.tap(ctx, lab.Router, "tcpdump", "-Z", "root", "-i", lab.NIC, "-n", "--immediate-mode", "-l", fmt.Sprintf(updates, port))
	if err != nil {
		return nil, nil, err
	}
	defer link.stop()
	kernel, err := c.tap(ctx, lab.Router, "ip", "-oneline", "monitor", "route")
	if err != nil {
		return nil, nil, err
	}
	defer kernel.stop()
	if _, err := link.since(ctx, time.Time{}, "listening on"); err != nil {
		return nil, nil, err
	}
	all := c.Network.Nodes()
	for i := range b.trials {
		lost := all[i%len(all)]
		if err := c.ready(ctx, all); err != nil {
			return nil, nil, err
		}
		if err := c.leads(ctx, address, all); err != nil {
			return nil, nil, fmt.Errorf("trial %d: %w", i+1, err)
		}
		begun := time.Now()
		left := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == lost })
		if err := c.ready(ctx, left); err != nil {
			return nil, nil, err
		}
		if err := c.leads(ctx, address, left); err != nil {
			return nil, nil, fmt.Errorf("trial %d: %w", i+1, err)
		}
		v4, _ := c.Network.Addresses(lost)
		heard, err := link.since(ctx, begun, "IP "+v4.String()+".")
		if err != nil {
			return nil, nil, fmt.Errorf("trial %d: %w", i+1, err)
		}
		changed, err := kernel.since(ctx, begun, address.String()+" ")
		if err != nil {
			return nil, nil, fmt.Errorf("trial %d: %w", i+1, err)
		}
		told, took = append(told, heard.Sub(begun)), append(took, changed.Sub(begun))
		b.say("  trial %d: the router is told to leave %s out after %s, and does so after %s", i+1, lost, duration(told[i]), duration(took[i]))
	}
	return told, took, nil
}

// serveRouted makes a Service that has just the endpoints that ready gives it,
// and returns its address. The nodes advertise it to a port of the router.
func (c *cluster) serveRouted(ctx context.Context, port int) (address netip.Addr, err error) {
	if err := c.Cluster.Apply(ctx, fmt.Sprintf(routedConfiguration, port)); err != nil {
		return address, err
	}
	_, err = c.api.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "routed", Annotations: map[string]string{"belfry.dev/address-pool": "routed"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Ports: []corev1.ServicePort{{Port: 80}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return address, err
	}
	http := int32(80)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "routed", Labels: map[string]string{discoveryv1.LabelServiceName: "routed"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &http}},
	}
	for i, node := range c.Network.Nodes() {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("192.0.2.%d", i+1)}, NodeName: &node})
	}
	if _, err := c.api.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return address, err
	}
	err = eventually(ctx, time.Minute, "the Service has an address", func() error {
		s, err := c.api.CoreV1().Services(namespace).Get(ctx, "routed", metav1.GetOptions{})
		if err == nil && len(s.Status.LoadBalancer.Ingress) != 1 {
			err = fmt.Errorf("its status is %+v", s.Status)
		}
		if err == nil {
			address, err = netip.ParseAddr(s.Status.LoadBalancer.Ingress[0].IP)
		}
		return err
	})
	return address, err
}

// ready makes the endpoints of some nodes ready, and no others.
func (c *cluster) ready(ctx context.Context, on []string) error {
	var patch []map[string]any
	for i, node := range c.Network.Nodes() {
		patch = append(patch, map[string]any{
			"op": "add", "path": fmt.Sprintf("/endpoints/%d/conditions", i), "value": map[string]bool{"ready": slices.Contains(on, node)},
		})
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = c.api.DiscoveryV1().EndpointSlices(namespace).Patch(ctx, "routed", types.JSONPatchType, body, metav1.PatchOptions{})
	return err
}

// leads waits until the router's kernel sends an address's traffic to some nodes
// and to no others.
func (c *cluster) leads(ctx context.Context, address netip.Addr, to []string) error {
	return eventually(ctx, time.Minute, fmt.Sprintf("the router sends %s to %v", address, to), func() error {
		out, err := c.Network.Exec(ctx, lab.Router, "ip", "route", "show", "exact", address.String()+"/32")
		if err != nil {
			return err
		}
		for _, node := range c.Network.Nodes() {
			v4, _ := c.Network.Addresses(node)
			if strings.Contains(out+" ", "via "+v4.String()+" ") != slices.Contains(to, node) {
				return fmt.Errorf("its route is %q", out)
			}
		}
		return nil
	})
}

// talk measures sessions themselves: a process of ours holds them with the
// router as a speaker would, by the same package, and says what it is told to.
func talk(ctx context.Context, b *bench) (err error) {
	c, err := b.need(ctx)
	if err != nil {
		return err
	}
	if err := c.route(ctx); err != nil {
		return err
	}
	for i := range manySessions + 1 {
		if _, err := c.Network.Exec(ctx, lab.Client, "ip", "address", "add", talker(i).String()+"/32", "dev", "lo"); err != nil {
			return err
		}
		defer func() {
			_, _ = c.Network.Exec(context.WithoutCancel(ctx), lab.Client, "ip", "address", "delete", talker(i).String()+"/32", "dev", "lo")
		}()
	}
	t, err := c.startTalker(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end()) }()

	begun := time.Now()
	if err := t.say("1 %d", manyPrefixes); err != nil {
		return err
	}
	port, err := c.complete(ctx, 0)
	if err != nil {
		return err
	}
	b.found("bgp/cold", time.Since(begun).Seconds(), "no session before")
	full, err := t.rest()
	if err != nil {
		return err
	}

	begun = time.Now()
	if _, err := c.Routers.Vtysh(ctx, "clear bgp "+talker(0).String()); err != nil {
		return err
	}
	if _, err := c.complete(ctx, port); err != nil {
		return err
	}
	b.found("bgp/reset", time.Since(begun).Seconds(), "all %d prefixes again", manyPrefixes)

	// Sessions with as good as nothing to say. A session's table keeps some of
	// its memory when it has less to say, so this is another process.
	if err := t.end(); err != nil {
		return err
	}
	if t, err = c.startTalker(ctx); err != nil {
		return err
	}
	var held []memory
	for _, n := range []int{1, 1 + manySessions} {
		if err := t.say("%d 1", n); err != nil {
			return err
		}
		if err := c.established(ctx, n); err != nil {
			return err
		}
		m, err := t.rest()
		if err != nil {
			return err
		}
		held = append(held, m)
	}
	b.found("bgp/session-rss", (held[1].now-held[0].now)/manySessions, "%d sessions on top of one", manySessions)
	b.found("bgp/prefixes-rss", (full.now-held[0].now)/(manyPrefixes/1000), "%d prefixes over one session", manyPrefixes)
	before, err := processorTime(t.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := pause(ctx, resting); err != nil {
		return err
	}
	after, err := processorTime(t.cmd.Process.Pid)
	if err != nil {
		return err
	}
	b.found("bgp/rest-cpu", (after - before).Seconds(), "%d sessions, keepalives every 3 s", 1+manySessions)
	return nil
}

// talker is the ith address that sessions are held from.
func talker(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(64 + i)}) }

// A neighbor is what FRR says of one.
type neighbor struct {
	State string `json:"bgpState"`
	// Port is the one that the neighbor has connected from.
	Port     int `json:"portForeign"`
	Families map[string]struct {
		Accepted int `json:"acceptedPrefixCounter"`
	} `json:"addressFamilyInfo"`
}

func (c *cluster) neighbor(ctx context.Context, i int) (neighbor, error) {
	var all map[netip.Addr]neighbor
	if err := c.Routers.VtyshJSON(ctx, "show bgp neighbors "+talker(i).String(), &all); err != nil {
		return neighbor{}, err
	}
	return all[talker(i)], nil
}

// complete waits until the router has all prefixes of the first session, by
// another connection than the one from a port, and returns the port of that.
func (c *cluster) complete(ctx context.Context, not int) (port int, err error) {
	err = eventually(ctx, 2*time.Minute, fmt.Sprintf("the router has %d prefixes", manyPrefixes), func() error {
		n, err := c.neighbor(ctx, 0)
		if err != nil {
			return err
		}
		if got := n.Families["ipv4Unicast"].Accepted; got != manyPrefixes || n.State != "Established" || n.Port == not {
			return fmt.Errorf("the session is %q and has %d, from port %d", n.State, got, n.Port)
		}
		port = n.Port
		return nil
	})
	return port, err
}

// established waits until the router has n sessions with something in them.
func (c *cluster) established(ctx context.Context, n int) error {
	return eventually(ctx, time.Minute, fmt.Sprintf("%d sessions are established", n), func() error {
		for i := range n {
			s, err := c.neighbor(ctx, i)
			if err == nil && (s.State != "Established" || s.Families["ipv4Unicast"].Accepted != 1) {
				err = fmt.Errorf("that from %s is %+v", talker(i), s)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// A talkingProcess holds sessions.
type talkingProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// talking is set in the environment of a process of this program that is to talk.
const talking = "BELFRY_BENCH_TALK"

func (c *cluster) startTalker(ctx context.Context) (*talkingProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	t := &talkingProcess{cmd: c.Network.Command(ctx, lab.Client, self)}
	t.cmd.Env = append(os.Environ(), talking+"=1")
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.out = bufio.NewReader(out)
	return t, t.cmd.Start()
}

// say has it hold so many sessions and say so many prefixes in each.
func (t *talkingProcess) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(t.in, format+"\n", args...); err != nil {
		return err
	}
	_, err := t.out.ReadString('\n')
	return err
}

// rest has it give memory back that it does not need, and returns what it keeps.
func (t *talkingProcess) rest() (memory, error) {
	if err := t.say("0 0"); err != nil {
		return memory{}, err
	}
	return memoryOf(t.cmd.Process.Pid)
}

// end ends it, unless it has ended.
func (t *talkingProcess) end() error {
	if t.cmd.ProcessState != nil {
		return nil
	}
	return errors.Join(t.in.Close(), t.cmd.Wait())
}

// holdForth is the life of a process that talks: a line "SESSIONS PREFIXES" says
// what, "0 0" leaves it at that and gives memory back. It ends with its input.
func holdForth(in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	peering := gobgp.New(slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- peering.Run(ctx) }()
	defer func() { cancel(); <-done }()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var sessions, prefixes int
		if _, err := fmt.Sscan(lines.Text(), &sessions, &prefixes); err != nil {
			return err
		}
		if sessions > 0 {
			peering.Set(speech(sessions, prefixes))
		} else {
			debug.FreeOSMemory()
		}
		if _, err := fmt.Fprintln(out, "done"); err != nil {
			return err
		}
	}
	return lines.Err()
}

func speech(sessions, prefixes int) []bgp.Session {
	var routes []bgp.Route
	for i := range prefixes {
		routes = append(routes, bgp.Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)})
	}
	var all []bgp.Session
	for i := range sessions {
		all = append(all, bgp.Session{
			Peer: lb.BGPPeer{
				Name: fmt.Sprintf("talker-%02d", i), MyASN: talkerAS, PeerASN: routerAS, Address: netip.MustParseAddr("198.51.100.1"),
				Source: talker(i), HoldTime: 9 * time.Second, ConnectTime: time.Second,
			},
			RouterID: talker(i), Routes: routes,
		})
	}
	return all
}
