package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
	"github.com/belfrylb/belfry/internal/proof"
)

var (
	v4   = netip.MustParseAddr("192.0.2.1")
	v6   = netip.MustParseAddr("2001:db8::1")
	webA = lb.ServiceKey{Namespace: "web", Name: "a"}
)

// calm is how long a test lets a world come to rest.
const calm = 100 * time.Millisecond

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A fakeCluster is one API server and the cache of everybody.
type fakeCluster struct {
	mu       sync.Mutex
	snapshot lb.Snapshot
	synced   chan struct{}
	watchers []chan struct{}
	// behind are the nodes whose caches get no news.
	behind map[string]bool
	edits  int
	reads  int
}

// newCluster holds one dual-stack Service and the nodes.
func newCluster(nodes ...string) *fakeCluster {
	c := &fakeCluster{synced: make(chan struct{})}
	c.snapshot = lb.Snapshot{
		Pools:            []lb.Pool{lbtest.Everything()},
		L2Advertisements: []lb.L2Advertisement{{Name: "all", ExcludeInterfaces: []string{"veth*"}}},
		Services: []lb.Service{{
			Key: webA, Assigned: []netip.Addr{v4, v6}, Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"": {Ready: 1}}, IPv6: lb.NodeEndpoints{"": {Ready: 1}}},
		}},
	}
	for i, n := range nodes {
		c.snapshot.Nodes = append(c.snapshot.Nodes, lb.Node{Name: n, Addresses: []netip.Addr{nodeAddress(i), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 11+i))}})
	}
	return c
}

func nodeAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)}) }

// edit changes what the API server holds.
func (c *fakeCluster) edit(f func(*lb.Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.snapshot
	s.Services, s.Nodes = slices.Clone(s.Services), slices.Clone(s.Nodes)
	f(&s)
	c.snapshot = s
	c.edits++
	c.notify()
}

func (c *fakeCluster) notify() {
	for _, w := range c.watchers {
		poke(w)
	}
}

// delay keeps news from a node's cache, or lets it have them.
func (c *fakeCluster) delay(node string, behind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = map[string]bool{node: behind}
	c.notify()
}

// of returns one speaker's access to the cluster.
func (c *fakeCluster) of(node string) *access {
	w := make(chan struct{}, 1)
	c.watchers = append(c.watchers, w)
	return &access{fakeCluster: c, node: node, watcher: w, read: -1}
}

type access struct {
	*fakeCluster
	node    string
	watcher chan struct{}
	read    int // edits when it was read last
	last    lb.Snapshot
}

func (a *access) Synced() <-chan struct{}  { return a.synced }
func (a *access) Changed() <-chan struct{} { return a.watcher }
func (a *access) Snapshot() (lb.Snapshot, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.behind[a.node] {
		return a.last, false
	}
	changed := a.read != a.edits
	a.last = a.snapshot
	if a.read = a.edits; changed {
		a.reads++
	}
	return a.snapshot, changed
}

// A fakeLink is a node's wire.
type fakeLink struct {
	mu         sync.Mutex
	lan        *lan
	interfaces []lb.Interface
	changed    chan struct{}
	heard      chan layer2.Heard
	claims     []layer2.Claim
	announced  []netip.Addr
	probed     []string
	defended   []netip.Addr
	// strangers use addresses on the link's segment; asking takes so long.
	strangers map[netip.Addr]lb.MAC
	detection time.Duration
	detected  []netip.Addr
	broken    bool
	// mine are the hardware addresses that answer a probe; nil: all.
	mine map[lb.MAC]netip.Addr
	// stuck holds whoever calls Set with something to do until it is closed; nil:
	// it does not.
	stuck chan struct{}
}

func (l *fakeLink) Set(claims []layer2.Claim) {
	l.mu.Lock()
	had := l.claims
	l.claims = claims
	stuck := l.stuck
	l.mu.Unlock()
	if stuck != nil && len(claims)+len(had) > 0 {
		<-stuck
	}
	l.lan.changed()
	for _, c := range claims {
		if !slices.ContainsFunc(had, c.Equal) {
			l.lan.announce(l, c)
		}
	}
}

func (l *fakeLink) Announce(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.announced = append(l.announced, a)
}

// announcements are the addresses that were announced afresh, in order.
func (l *fakeLink) announcements() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.announced)
}

func (l *fakeLink) Interfaces() []lb.Interface {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.interfaces
}

func (l *fakeLink) Changed() <-chan struct{}   { return l.changed }
func (l *fakeLink) Heard() <-chan layer2.Heard { return l.heard }

func (l *fakeLink) Probe(_ context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probed = append(l.probed, fmt.Sprint(ifindex, target, mac))
	return l.mine == nil || l.mine[mac] == target, nil
}

// Ask is answered by whoever answers for an address on the lan, at the end of the
// window.
func (l *fakeLink) Ask(ctx context.Context, q proof.Question) ([]proof.Answer, error) {
	select {
	case <-time.After(q.Window):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var out []proof.Answer
	for _, a := range q.Addresses() {
		for _, other := range l.lan.links {
			if other != l && (other.answers(a) || slices.ContainsFunc(other.Interfaces()[0].Addresses, func(p netip.Prefix) bool { return p.Addr() == a })) {
				out = append(out, proof.Answer{Address: a, MAC: other.Interfaces()[0].MAC})
			}
		}
	}
	return out, nil
}

func (l *fakeLink) Defend(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.defended = append(l.defended, a)
}

func (l *fakeLink) Detect(ctx context.Context, ifindex int, addresses []netip.Addr, ours func(lb.MAC) bool) ([]layer2.Heard, error) {
	l.mu.Lock()
	detection := l.detection
	l.mu.Unlock()
	select {
	case <-time.After(detection):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.detected = append(l.detected, addresses...)
	if l.broken {
		return nil, errors.New("the segment cannot be asked")
	}
	var found []layer2.Heard
	for _, a := range addresses {
		if mac, is := l.strangers[a]; is && !ours(mac) {
			found = append(found, layer2.Heard{At: time.Now(), Address: a, MAC: mac, Interface: ifindex, Kind: layer2.HeardReply})
		}
	}
	return found, nil
}

func (l *fakeLink) answers(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.claims, func(c layer2.Claim) bool { return c.Address == a && len(c.Interfaces) > 0 })
}

func (l *fakeLink) set(f func(*lb.Interface)) {
	l.mu.Lock()
	l.interfaces = slices.Clone(l.interfaces)
	f(&l.interfaces[0])
	l.mu.Unlock()
	poke(l.changed)
}

// A lan is the segment that all nodes are on.
type lan struct {
	mu    sync.Mutex
	links []*fakeLink
	// deaf loses every announcement.
	deaf bool
	// gaps are the times at which nobody answered for an address that somebody
	// had answered for; it is looked at whenever anybody changes.
	gaps     []string
	answered map[netip.Addr]bool
}

const wire = 100 * time.Microsecond

// announce lets all others that answer for the address hear the claim.
func (n *lan) announce(from *fakeLink, c layer2.Claim) {
	if n.deaf {
		return
	}
	time.AfterFunc(wire, func() {
		for _, l := range n.links {
			if l != from && l.answers(c.Address) {
				l.heard <- layer2.Heard{At: time.Now(), Address: c.Address, MAC: from.interfaces[0].MAC, Interface: 2, Kind: layer2.HeardAnnouncement}
			}
		}
	})
}

func (n *lan) changed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range []netip.Addr{v4, v6} {
		some := slices.ContainsFunc(n.links, func(l *fakeLink) bool { return l.answers(a) })
		if n.answered[a] && !some {
			n.gaps = append(n.gaps, a.String())
		}
		n.answered[a] = some
	}
}

// who returns the nodes that answer for an address.
func (w *fakeWorld) who(a netip.Addr) string {
	var nodes []string
	for _, n := range w.nodes {
		if n.link.answers(a) {
			nodes = append(nodes, n.name)
		}
	}
	return strings.Join(nodes, " ")
}

// A hub is gossip among all that take part. It takes a moment.
type hub struct {
	mu    sync.Mutex
	parts []*part
	delay time.Duration
}

type part struct {
	hub          *hub
	node         string
	address      netip.Addr
	local        election.Local
	own          election.OwnClaims
	said         int
	peers, moved []netip.Addr
	blocked      []election.Blocked
	members      []election.Member
	changed      chan struct{}
	state        election.State
}

func (p *part) Publish(l election.Local) {
	h := p.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	p.said++
	p.local = l
	p.own.Set(l.Owned, election.Majority)
	p.own.Offer(l.Offered)
	p.refresh()
	poke(p.changed)
	time.AfterFunc(h.delay, h.spread)
}

func (p *part) SetPeers(peers []netip.Addr) {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	p.peers = peers
}

func (p *part) Move(addr netip.Addr) {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	p.moved = append(p.moved, addr)
}

func (p *part) Blocked() []election.Blocked {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	return p.blocked
}

func (p *part) Changed() <-chan struct{} { return p.changed }
func (p *part) Members() []election.Member {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	return p.members
}

// present returns the part as a member, or false when it is gone.
func (p *part) present() (election.Member, bool) {
	m := election.Member{Node: p.node, Address: p.address, State: p.state, Interfaces: p.local.Interfaces, Claims: p.own.Claims(), Sessions: p.local.Sessions}
	if p.local.Leaving && m.State == election.Alive {
		m.State = election.Leaving
	}
	return m, p.state != election.Gone
}

// refresh brings the part's own entry up to date.
func (p *part) refresh() {
	members := slices.DeleteFunc(slices.Clone(p.members), func(m election.Member) bool { return m.Node == p.node })
	if m, ok := p.present(); ok {
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b election.Member) int { return strings.Compare(a.Node, b.Node) })
	p.members = members
}

// spread tells everybody everything.
func (h *hub) spread() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.parts {
		p.members = nil
		for _, o := range h.parts {
			p.own.Witness(o.own.Epoch())
			if m, ok := o.present(); ok {
				p.members = append(p.members, m)
			}
		}
		poke(p.changed)
	}
}

// become changes what gossip holds a node for.
func (h *hub) become(node string, s election.State) {
	h.mu.Lock()
	for _, p := range h.parts {
		if p.node == node {
			p.state = s
		}
	}
	h.mu.Unlock()
	h.spread()
}

// A fakeWorld runs a speaker on each of some nodes.
type fakeWorld struct {
	t       *testing.T
	cluster *fakeCluster
	hub     *hub
	lan     *lan
	nodes   []*fakeNode
}

type fakeNode struct {
	name    string
	link    *fakeLink
	part    *part
	peering *fakePeering
	speaker *Speaker
	// requests are what people want its speaker to ask.
	requests chan string
	log      lines
	stop     context.CancelFunc
	done     chan struct{}
}

// inWorld runs a test on a virtual clock, with speakers on nodes of these names
// that are up but have not read the cluster yet.
func inWorld(t *testing.T, nodes []string, test func(t *testing.T, w *fakeWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWorld{
			t: t, cluster: newCluster(nodes...), hub: &hub{delay: 2 * time.Millisecond},
			lan: &lan{answered: map[netip.Addr]bool{}},
		}
		for i, name := range nodes {
			n := &fakeNode{name: name, done: make(chan struct{})}
			n.link = &fakeLink{
				lan: w.lan, changed: make(chan struct{}, 1), heard: make(chan layer2.Heard, 16),
				interfaces: []lb.Interface{
					{
						Index: 2, Name: "eth0", MAC: lb.MAC{2, 5: byte(11 + i)}, Up: true, Carrier: true,
						Addresses: []netip.Prefix{netip.PrefixFrom(nodeAddress(i), 24), netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", 11+i))},
					},
					{Index: 3, Name: "veth1", MAC: lb.MAC{2, 4: 1, 5: byte(11 + i)}, Up: true, Carrier: true},
					{Index: 4, Name: "eth9", MAC: lb.MAC{2, 4: 9, 5: byte(11 + i)}, Up: true},
				},
			}
			n.part = &part{hub: w.hub, node: name, address: nodeAddress(i), changed: make(chan struct{}, 1), state: election.Alive}
			w.lan.links = append(w.lan.links, n.link)
			w.hub.parts = append(w.hub.parts, n.part)
			w.nodes = append(w.nodes, n)
			n.peering = &fakePeering{changed: make(chan struct{}, 1), down: map[string]bool{}}
			access := w.cluster.of(name)
			n.requests = make(chan string, 1)
			n.speaker = New(Config{Node: name, Gossip: nodeAddress(i), BGP: n.peering, Grace: grace, Requests: n.requests}, access, n.link, n.part, n.log.logger(), nil)
		}
		w.hub.spread()
		for _, n := range w.nodes {
			ctx, stop := context.WithCancel(t.Context())
			n.stop = stop
			go func() {
				defer close(n.done)
				n.speaker.Run(ctx)
				w.hub.become(n.name, election.Gone) // membership leaves after the speaker
			}()
		}
		test(t, w)
		for _, n := range w.nodes {
			n.stop()
			<-n.done
		}
	})
}

// lines are what a speaker's log says, without the time.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// about are the lines that have a word, since they were asked for last.
func (l *lines) about(word string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, word) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	l.text.Reset()
	return out
}

// start lets the caches fill, and everything come to rest.
func (w *fakeWorld) start() {
	close(w.cluster.synced)
	w.rest()
}

// rest lets everything happen that is going to, within less than any bound that
// a test is about.
func (w *fakeWorld) rest() {
	time.Sleep(2*calm + leisurely)
	synctest.Wait()
}

func (w *fakeWorld) node(name string) *fakeNode {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *fakeNode) bool { return n.name == name })]
}

func (w *fakeWorld) owned(want string) {
	w.t.Helper()
	for _, a := range []netip.Addr{v4, v6} {
		if got := w.who(a); got != want {
			w.t.Errorf("%v is answered for by %q, want %q", a, got, want)
		}
	}
}
