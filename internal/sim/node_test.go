package sim

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
	"github.com/belfrylb/belfry/internal/placement"
)

// A config is what the API objects say: which addresses are not in use yet, who may
// announce the others, where they are placed, which were announced at some time, and
// where the nodes are.
type config struct {
	absent    map[netip.Addr]bool
	barred    map[netip.Addr]map[int]bool
	placed    map[netip.Addr]string
	announced map[netip.Addr]bool
	nodes     []lb.Node
}

func (c config) clone() config {
	d := config{
		absent: maps.Clone(c.absent), barred: map[netip.Addr]map[int]bool{}, placed: maps.Clone(c.placed),
		announced: maps.Clone(c.announced), nodes: slices.Clone(c.nodes),
	}
	for a, m := range c.barred {
		d.barred[a] = maps.Clone(m)
	}
	return d
}

// permits reports whether c lets the same nodes announce as d. Where an address
// is placed is known to some before others, which must do no harm.
func (c config) permits(d config) bool {
	return maps.EqualFunc(c.barred, d.barred, func(x, y map[int]bool) bool { return maps.Equal(x, y) }) && maps.Equal(c.absent, d.absent)
}

// snapshot is what a watcher reads. Who may announce an address is said by where
// its endpoints are.
func (c config) snapshot(addrs []netip.Addr) lb.Snapshot {
	s := lb.Snapshot{Nodes: c.nodes, Pools: []lb.Pool{lbtest.Everything()}, L2Advertisements: []lb.L2Advertisement{{Name: "all", ExcludeInterfaces: []string{"mgmt*"}}}}
	for i, a := range addrs {
		if c.absent[a] {
			continue
		}
		at := lb.NodeEndpoints{}
		for k, n := range c.nodes {
			if !c.barred[a][k] {
				at[n.Name] = lb.EndpointCount{Ready: 1}
			}
		}
		s.Services = append(s.Services, lb.Service{
			Key: lb.ServiceKey{Namespace: "ns", Name: fmt.Sprintf("s%d", i)}, Assigned: []netip.Addr{a}, Placed: []string{c.placed[a]},
			Announced: c.announced[a], TrafficPolicy: lb.TrafficLocal, Endpoints: lb.Endpoints{IPv4: at, IPv6: at},
		})
	}
	return s
}

// A node is a machine with a speaker.
type node struct {
	w    *world
	id   int
	name string
	// addr is where its speaker gossips, host its number on each segment.
	addr netip.Addr
	host int

	powered, running, paused bool
	leaving, deaf            bool
	back                     time.Duration // After leaving.
	carrier                  []bool        // by segment
	// bare: its interfaces have no addresses. kernel are addresses that its kernel
	// answers for on every interface.
	bare     bool
	kernel   map[netip.Addr]bool
	leftover time.Duration // Since when.
	// shut is until when it answers for nothing, after it was stopped for long.
	shut   time.Duration
	boot   uint64
	offset time.Duration // Of its clock.
	rate   float64

	view    *election.View
	own     *election.Record
	records []*election.Record
	members []election.Member
	config  config

	core     *core.Core
	seen     *core.View
	claims   []layer2.Claim
	table    *layer2.Table
	schedule *layer2.Schedule
	met      map[string]bool
	// recording are the addresses about to be recorded here.
	recording map[netip.Addr]bool
	// gossip is memberlist's view: whom it holds for alive; since is when it
	// lost touch of a node that it does.
	gossip map[int]bool
	since  map[int]time.Duration
	// fast: it watches others and is watched. sessions are its ends.
	fast     bool
	sessions []*session
	sounding map[election.SegmentQuestion]bool
	lateness map[int]*layer2.Lateness // by interface

	blocked    []election.Blocked
	refreshing bool
	turns      int                      // Of pings.
	refreshed  map[int]*election.Record // What they brought last.

	wake, settling, sending, setting int      // Number the timers; only the last one counts.
	backlog                          []func() // What arrived while it was paused.
}

func newWorld(s scenario) *world {
	w := &world{
		rnd: rand.New(rand.NewPCG(s.seed, 77)), gossip: newNetwork("gossip", s.nodes, s.loss), placing: s.placed, twin: s.twin, cached: map[netip.Addr]int{},
		truth: config{
			absent: map[netip.Addr]bool{}, barred: map[netip.Addr]map[int]bool{}, placed: map[netip.Addr]string{}, announced: map[netip.Addr]bool{},
		},
	}
	for i := range max(1, s.segments) {
		w.segments = append(w.segments, newNetwork(fmt.Sprintf("segment%d", i), s.nodes, s.loss))
	}
	for i := range s.addrs {
		host := byte(200 + i/2/len(w.segments))
		segment := byte(i / 2 % len(w.segments))
		if i%2 == 0 {
			w.addrs = append(w.addrs, netip.AddrFrom4([4]byte{198, 51, 100 + segment, host}))
		} else {
			w.addrs = append(w.addrs, netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 5: segment, 15: host}))
		}
	}
	for _, st := range s.steps {
		if st.verb == "create" {
			w.truth.absent[w.addrs[st.number(0)]] = true
		}
	}
	for i := range s.nodes {
		n := &node{
			w: w, id: i, name: fmt.Sprintf("n%d", i), host: i + 1, kernel: map[netip.Addr]bool{}, bare: s.bare,
			powered: true, offset: time.Duration(w.rnd.Int64N(int64(time.Hour))), rate: 0.99 + 0.02*w.rnd.Float64(),
		}
		n.fast = !s.standard && (s.steady || w.rnd.IntN(8) > 0)
		for range w.segments {
			n.carrier = append(n.carrier, true)
		}
		n.addr = gossipAddress(n.host)
		w.nodes = append(w.nodes, n)
		w.truth.nodes = append(w.truth.nodes, n.object())
		n.quiet()
		w.after(w.between(0, 300*ms), n.start)
	}
	for _, n := range w.nodes {
		n.config = w.truth.clone()
	}
	w.check.init(w)
	w.control()
	if !s.steady && !s.standard {
		w.after(3*time.Second, w.starve)
	}
	return w
}

func gossipAddress(host int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(host)}) }

// segmentFor returns the segment that an address belongs to.
func (w *world) segmentFor(a netip.Addr) int {
	if a.Is4() {
		return int(a.As4()[2]) - 100
	}
	return int(a.As16()[5])
}

// object is the node in the API.
func (n *node) object() lb.Node {
	o := lb.Node{Name: n.name, Addresses: []netip.Addr{gossipAddress(n.host)}}
	for segment := range n.w.segments {
		for _, p := range n.subnets(segment) {
			o.Addresses = append(o.Addresses, p.Addr())
		}
	}
	return o
}

// subnets are the node's addresses on a segment.
func (n *node) subnets(segment int) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100 + byte(segment), byte(n.host)}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 5: byte(segment), 15: byte(n.host)}), 64),
	}
}

// ifaces are its interfaces as its kernel has them.
func (n *node) ifaces() []lb.Interface {
	var out []lb.Interface
	for segment := range n.w.segments {
		i := lb.Interface{
			Index: firstIndex + segment, Name: fmt.Sprintf("eth%d", segment), MAC: lb.MAC{2, 0, 0, 0, byte(segment), byte(n.id)},
			Up: true, Carrier: n.carrier[segment],
		}
		if !n.bare {
			i.Addresses = n.subnets(segment)
		}
		out = append(out, i)
	}
	if n.bare {
		out = append(out, lb.Interface{
			Index: managementIndex, Name: "mgmt0", MAC: lb.MAC{2, 0, 0, 2, 0, byte(n.id)}, Up: true, Carrier: n.carrier[0],
			Addresses: []netip.Prefix{netip.PrefixFrom(gossipAddress(n.host), 24)},
		})
	}
	if n.w.twin {
		i := out[0]
		i.Index, i.Name, i.MAC = twinIndex, "wlan0", lb.MAC{2, 0, 0, 1, 0, byte(n.id)}
		i.Addresses = nil
		for _, p := range n.subnets(0) {
			out := p.Addr().As16()
			out[15] += 100
			a := netip.AddrFrom16(out)
			if p.Addr().Is4() {
				a = a.Unmap()
			}
			i.Addresses = append(i.Addresses, netip.PrefixFrom(a, p.Bits()))
		}
		out = append(out, i)
	}
	return out
}

func (n *node) station() *layer2.Station { return layer2.NewStation(n.ifaces()) }

// active: the process runs and is not stopped.
func (n *node) active() bool { return n.running && !n.paused }

// gossips reports whether packets of gossip reach it.
func (n *node) gossips() bool { return n.carrier[0] && !n.deaf }

// clock is the node's own.
func (n *node) clock() time.Duration {
	return n.offset + time.Duration(float64(n.w.now)*n.rate)
}

// time is the same, as a date.
func (n *node) time() time.Time { return time.Unix(0, 0).Add(n.clock()) }

// until returns how long it is to a date, by the world's clock.
func (n *node) until(t time.Time) time.Duration {
	return max(0, time.Duration(float64(t.Sub(n.time()))/n.rate)+time.Microsecond)
}

// quiet is a node without a speaker.
func (n *node) quiet() {
	n.claims, n.table, n.schedule, n.seen = nil, layer2.NewTable(nil), layer2.NewSchedule(layer2.Pace{Rate: 500, Refresh: time.Minute}), nil
	n.w.changed = true
}

// start starts the process.
func (n *node) start() {
	if !n.powered || n.running {
		return
	}
	n.boot++
	n.running, n.paused, n.leaving, n.deaf = true, false, false, false
	n.gossip, n.since, n.refreshed = map[int]bool{}, map[int]time.Duration{}, map[int]*election.Record{}
	n.sessions, n.sounding, n.lateness = nil, map[election.SegmentQuestion]bool{}, map[int]*layer2.Lateness{}
	n.met, n.recording = map[string]bool{}, map[netip.Addr]bool{}
	n.members, n.own, n.records, n.backlog, n.refreshing, n.blocked = nil, nil, nil, nil, false, nil
	n.quiet()
	n.addr = gossipAddress(n.host)
	n.config = n.w.truth.clone()
	n.view = election.NewView(n.name, n.addr, n.boot, election.DefaultPace(3, slow, lostSoonest))
	detection := lb.DetectStandard
	if n.fast {
		detection = lb.DetectFast
	}
	n.core = core.New(core.Config{Node: n.name, Gossip: n.addr, Detection: detection, ProofInterval: proofInterval})
	n.w.note("%s starts", n.name)
	n.turn(func() {})
	n.soon(func() {
		n.core.SetInterfaces(n.ifaces())
		n.core.SetMembers(n.time(), n.members)
		n.core.Configure(n.time(), n.config.snapshot(n.w.addrs))
	})
}

// kill ends the process.
func (n *node) kill(how string) {
	if !n.running {
		return
	}
	n.w.note("%s %s", n.name, how)
	n.running, n.paused = false, false
	n.boot++
	n.backlog = nil
	n.quiet()
	// Neighbors that heard it last get no answer from it, and ask anew.
	maps.DeleteFunc(n.w.cached, func(_ netip.Addr, last int) bool { return last == n.id })
	n.w.watch()
}

// soon tells the core something; its loop gets to it after a moment.
func (n *node) soon(f func()) {
	boot := n.boot
	n.w.after(n.w.between(50*time.Microsecond, ms), func() {
		if n.boot == boot {
			n.turn(func() { f(); n.act() })
		}
	})
}

// act does what the core says.
func (n *node) act() {
	e := n.core.Settle(n.time())
	w := n.w
	if e.Claims != nil {
		n.set(e.Claims)
	}
	if e.Gossip != nil {
		n.view.SetLocal(*e.Gossip)
	}
	if e.Peers != nil {
		n.view.SetPeers(n.clock(), e.Peers)
	}
	if e.Move.IsValid() {
		n.move(e.Move)
	}
	for _, a := range e.Announce {
		n.schedule.Announce(n.time(), a)
	}
	if len(e.Announce) > 0 {
		n.send()
	}
	for _, a := range e.Defend {
		for _, g := range n.schedule.Defend(n.time(), a) {
			n.gratuitous(g)
		}
	}
	for _, q := range e.Detect {
		n.detect(q)
	}
	for _, q := range e.Identify {
		n.identify(q)
	}
	for _, q := range e.Ask {
		n.probed(q.Interface, q.Address, q.MAC, func(answered bool) {
			n.soon(func() { n.core.Asked(n.time(), q, answered) })
		})
	}
	for _, q := range e.Prove {
		n.prove(q)
	}
	for _, t := range e.Transitions {
		w.note("  %s: %v %v (%v) from %q to %q", n.name, t.Address, t.Kind, t.Cause, t.From, t.To)
	}
	for _, c := range e.Conflicts {
		w.note("  %s: %v is used by %v", n.name, c.Address, c.MAC)
		w.check.told[c.Address] = true
	}
	if e.View != nil {
		n.look(*e.View)
	}
	if e.Left {
		n.gone()
		return
	}
	n.settling++
	settling, boot := n.settling, n.boot
	if !e.Next.IsZero() {
		w.after(n.until(e.Next), func() {
			if n.settling == settling && n.boot == boot {
				n.turn(n.act)
			}
		})
	}
}

// look does what is done about a view besides: the place of an address follows its
// owner.
func (n *node) look(v core.View) {
	w := n.w
	for _, p := range v.Proofs {
		w.check.judge(n, p)
	}
	n.seen = &v
	for _, m := range v.Members {
		n.met[m.Node] = n.met[m.Node] || m.State == election.Alive
	}
	for _, d := range v.Intent.Decisions {
		if n.keeps(d.Address) && !n.recording[d.Address] {
			n.record(d.Address)
		}
	}
}

// keeps reports whether an address is to be recorded here.
func (n *node) keeps(a netip.Addr) bool {
	d, _ := n.seen.Intent.Decision(a)
	_, withheld := n.seen.Withheld[a]
	return d.Role == election.Owner && d.Placed != "" && d.Place == n.name && d.Placed != n.name && !withheld &&
		n.met[d.Placed] && !slices.Contains(n.seen.Offered, a)
}

// record writes to the API that an address is placed here now, if that is still
// so after a while. The others learn it when they do.
func (n *node) record(a netip.Addr) {
	n.recording[a] = true
	boot, wait := n.boot, n.w.between(ms, 100*ms)
	if i := slices.IndexFunc(n.members, func(m election.Member) bool { return m.Node == n.name }); i < 0 || n.members[i].Claims[a].Quorum < election.Majority {
		wait += time.Second
	}
	var try func()
	try = func() {
		switch {
		case n.boot != boot:
		case !n.active() || !n.carrier[0]:
			n.w.after(100*ms, try)
		default:
			delete(n.recording, a)
			if n.keeps(a) && n.config.placed[a] == n.w.truth.placed[a] {
				n.w.note("%s is recorded to have %v", n.name, a)
				n.w.configure(2*time.Second, func(cfg *config) { cfg.placed[a] = n.name })
			}
		}
	}
	n.w.after(wait, try)
}

// leave ends the process in good order.
func (n *node) leave(back time.Duration) {
	if !n.active() || n.leaving {
		return
	}
	n.w.note("%s leaves", n.name)
	n.leaving, n.back = true, back
	n.turn(func() { n.core.Leave(n.time()); n.act() })
}

// gone ends it once all is handed over.
func (n *node) gone() {
	for _, other := range n.w.nodes {
		if other != n && other.active() && other.gossip[n.id] && n.w.touches(other.id, n.id) {
			other.gossip[n.id] = false
			delete(other.since, n.id)
			boot := other.boot
			n.w.after(n.w.between(100*time.Microsecond, 5*ms), func() {
				if other.boot == boot && !other.gossip[n.id] {
					other.turn(func() { other.view.Lost(other.clock(), n.name) })
				}
			})
		}
	}
	back := n.back
	boot := n.boot
	n.w.after(0, func() {
		if n.boot == boot {
			n.kill("has left")
			n.w.after(back, n.start)
		}
	})
}

// plug plugs a cable in or out; the kernel notices at once.
func (n *node) plug(segment int, in bool) {
	if in == n.carrier[segment] {
		return
	}
	n.w.note("%s: carrier %v on %s", n.name, in, n.w.segments[segment].name)
	n.carrier[segment] = in
	n.w.watch()
	n.interfaces()
}

// interfaces tells the process of its interfaces.
func (n *node) interfaces() {
	if n.running {
		n.schedule.Update(n.time(), n.claims, n.ifaces())
		n.send()
		n.soon(func() { n.core.SetInterfaces(n.ifaces()) })
	}
}

// move gossips at another address: memberlist begins anew, and the others find that the
// node is not where it was.
func (n *node) move(addr netip.Addr) {
	n.w.note("%s gossips at %v", n.name, addr)
	n.addr, n.deaf = addr, false
	n.gossip, n.since = map[int]bool{}, map[int]time.Duration{}
	n.view.Move(n.clock(), addr)
	for _, other := range n.w.nodes {
		if boot := other.boot; other != n && other.gossip[n.id] {
			n.w.after(n.w.between(lostSoonest, lostLatest), func() {
				if other.boot == boot && other.active() && other.gossip[n.id] && !n.gossip[other.id] {
					other.lose(n)
				}
			})
		}
	}
	n.w.watch()
}

// renumber gives the node another address. Its speaker's socket keeps the old one.
func (n *node) renumber(host int) {
	n.w.note("%s is renumbered", n.name)
	n.host, n.deaf = host, true
	n.w.watch()
	n.interfaces()
	n.w.configure(time.Second, func(c *config) { c.nodes = slices.Clone(c.nodes); c.nodes[n.id] = n.object() })
}

// configure changes the API objects; each node learns after its own delay.
func (w *world) configure(lag time.Duration, change func(*config)) {
	change(&w.truth)
	for _, n := range w.nodes {
		boot := n.boot
		w.after(w.between(0, lag+ms), func() {
			if n.boot != boot {
				return // It has read all that there was when it started.
			}
			n.turn(func() {
				// What is learnt is the newest state, whatever the event was.
				n.config = w.truth.clone()
				w.changed = true
				n.core.Configure(n.time(), n.config.snapshot(w.addrs))
				n.act()
			})
		})
	}
	w.control()
}

// control lets the controller place addresses, a moment later.
func (w *world) control() {
	if !w.placing {
		return
	}
	w.after(w.between(20*ms, 200*ms), func() {
		sites := announce.NewIndex(w.truth.snapshot(w.addrs), eligibility.Options{}).Sites()
		for i := range sites {
			sites[i].InService = w.truth.announced[sites[i].Address]
		}
		moved := map[netip.Addr]string{}
		for _, d := range placement.Plan(map[string]int{}, sites) {
			if cmp.Or(d.Node, w.truth.placed[d.Address]) != w.truth.placed[d.Address] {
				w.note("controller places %v on %s (%v)", d.Address, d.Node, d.Reason)
				moved[d.Address] = d.Node
			}
		}
		if len(moved) > 0 {
			for a := range moved {
				w.check.moved[a] = true
			}
			w.check.disturb()
			w.configure(500*ms, func(c *config) { maps.Copy(c.placed, moved) })
		}
	})
}
