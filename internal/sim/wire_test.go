package sim

import (
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A network carries packets between nodes.
type network struct {
	name string
	// cut[i][j]: packets from i to j are lost.
	cut  [][]bool
	loss float64
	// late is how long a packet may be held, besides the usual.
	late time.Duration
	// only, if not empty, is the protocol of gossip that cut concerns alone: tcp or udp.
	only string
}

func newNetwork(name string, nodes int, loss float64) *network {
	n := &network{name: name, loss: loss}
	for range nodes {
		n.cut = append(n.cut, make([]bool, nodes))
	}
	return n
}

func (n *network) heal() {
	for i := range n.cut {
		clear(n.cut[i])
	}
	n.only, n.late = "", 0
}

// networks are all of them, or those that a name stands for.
func (w *world) networks(name string) []*network {
	all := append([]*network{w.gossip}, w.segments...)
	if name == "" {
		return all
	}
	i := slices.IndexFunc(all, func(n *network) bool { return n.name == name })
	if i < 0 {
		return nil
	}
	return all[i : i+1]
}

// linked reports whether i and j hear each other's gossip directly. memberlist pings by
// TCP where no answer comes by UDP.
func (w *world) linked(i, j int) bool {
	g := w.gossip
	return (g.only != "" || !g.cut[i][j] && !g.cut[j][i]) && w.nodes[i].gossips() && w.nodes[j].gossips()
}

// calls is the same for TCP.
func (w *world) calls(i, j int) bool {
	g := w.gossip
	return (g.only == "udp" || !g.cut[i][j] && !g.cut[j][i]) && w.nodes[i].gossips() && w.nodes[j].gossips()
}

// onSegment reports whether i and j hear each other on a segment.
func (w *world) onSegment(segment, i, j int) bool {
	s := w.segments[segment]
	return !s.cut[i][j] && !s.cut[j][i] && w.nodes[i].carrier[segment] && w.nodes[j].carrier[segment]
}

// relayed reports whether a third node that both i and j hear by packets pings j for i.
func (w *world) relayed(i, j int) bool {
	for k, n := range w.nodes {
		if k != i && k != j && n.active() && n.gossips() && !w.gossip.cut[i][k] && !w.gossip.cut[k][i] && !w.gossip.cut[k][j] && !w.gossip.cut[j][k] {
			return true
		}
	}
	return false
}

// touches reports whether gossip between i and j works, maybe through a third.
func (w *world) touches(i, j int) bool {
	if !w.nodes[j].active() {
		return false
	}
	if w.linked(i, j) {
		return true
	}
	for k, n := range w.nodes {
		if k != i && k != j && n.active() && w.linked(i, k) && w.linked(k, j) {
			return true
		}
	}
	return false
}

// flight is how long a packet takes.
func (w *world) flight(n *network) time.Duration {
	d := w.between(100*time.Microsecond, 3*ms)
	if w.rnd.IntN(20) == 0 {
		d += w.between(0, 30*ms)
	}
	return d + w.between(0, n.late)
}

// packet delivers a packet of gossip, maybe.
func (w *world) packet(from, to *node, f func(*node)) {
	if to == nil || w.gossip.only != "tcp" && w.gossip.cut[from.id][to.id] || !from.gossips() || !to.gossips() || !to.running || w.rnd.Float64() < w.gossip.loss {
		return
	}
	boot := to.boot
	w.after(w.flight(w.gossip), func() {
		if to.boot == boot {
			to.turn(func() { f(to) })
		}
	})
}

// stream delivers what is sent by a connection.
func (w *world) stream(from, to *node, f func(*node)) {
	if to == nil || !w.calls(from.id, to.id) || !to.running {
		return
	}
	boot := to.boot
	w.after(w.between(ms, 6*ms), func() {
		if to.boot == boot && w.calls(from.id, to.id) {
			to.turn(func() { f(to) })
		}
	})
}

// segmentOf returns the segment of an interface: what has its cable.
func (w *world) segmentOf(ifindex int) int {
	if ifindex == twinIndex || ifindex == managementIndex {
		return 0
	}
	return ifindex - firstIndex
}

// networkOf returns the network of an interface.
func (w *world) networkOf(ifindex int) *network {
	if ifindex == managementIndex {
		return w.gossip
	}
	return w.segments[w.segmentOf(ifindex)]
}

// stops reports whether frames from i to j are lost.
func (n *network) stops(i, j int) bool { return n.cut[i][j] && n.only == "" }

const (
	// firstIndex is the index of a node's interface on the first segment, twinIndex that
	// of its other one there, and managementIndex that of the one by which a node gossips
	// whose others have no addresses.
	firstIndex      = 2
	managementIndex = 8
	twinIndex       = 9
)

// frame delivers a frame from an interface to the others on its segment, maybe.
func (w *world) frame(from *node, ifindex int, f func(to *node, ifindex int)) {
	segment := w.segmentOf(ifindex)
	s := w.networkOf(ifindex)
	if !from.carrier[segment] {
		return
	}
	for _, to := range w.nodes {
		if to == from || s.stops(from.id, to.id) || !to.carrier[segment] || w.rnd.Float64() < s.loss {
			continue
		}
		w.after(w.flight(s), func() {
			for _, i := range to.ifaces() {
				if w.networkOf(i.Index) == s {
					f(to, i.Index)
				}
			}
		})
	}
}

// asks puts a question on a segment; each answer comes back, maybe.
func (w *world) asks(from *node, ifindex int, target netip.Addr, answer func(mac lb.MAC)) {
	me := from.station()
	q := layer2.Question{Target: target, SenderMAC: me.MAC(ifindex)}
	w.frame(from, ifindex, func(to *node, at int) {
		q.Interface = at
		if !to.powered || !to.replies(q) {
			return
		}
		mac := to.station().MAC(at)
		s := w.networkOf(at)
		if !s.stops(to.id, from.id) && w.rnd.Float64() >= s.loss {
			w.after(w.flight(s), func() { answer(mac) })
		}
	})
}

// replies reports whether the node, its kernel or its speaker, answers a question.
func (n *node) replies(q layer2.Question) bool {
	return n.kernel[q.Target] || n.station().Holds(q.Target, q.Interface) || n.speaks(q)
}

// speaks reports whether its speaker does.
func (n *node) speaks(q layer2.Question) bool {
	return n.active() && n.w.now >= n.shut && n.table.Decide(n.station(), q) == layer2.Answered
}

// voices counts the hardware addresses by which a client on the address's segment
// gets an answer from the node: by its speaker, and by its kernel.
func (n *node) voices(a netip.Addr) (speaker, kernel int) {
	segment := n.w.segmentFor(a)
	if !n.powered || !n.carrier[segment] {
		return 0, 0
	}
	for _, i := range n.ifaces() {
		switch q := (layer2.Question{Interface: i.Index, Target: a, SenderMAC: lb.MAC{2, 0xc1}}); {
		case n.w.networkOf(i.Index) != n.w.segments[segment]:
		case n.speaks(q):
			speaker++
		case n.kernel[a]:
			kernel++
		}
	}
	return speaker, kernel
}

// answers reports whether its speaker answers for an address.
func (n *node) answers(a netip.Addr) bool {
	speaker, _ := n.voices(a)
	return speaker > 0
}

// answering are the addresses that its speaker answers for.
func (n *node) answering() (all []netip.Addr) {
	for _, c := range n.claims {
		all = append(all, c.Address)
	}
	return all
}

// set installs claims. What is new is answered, and announced, once the kernel has
// let it: mostly at once, sometimes later than the speaker waits for.
func (n *node) set(claims []layer2.Claim) {
	had := n.claims
	n.claims = claims
	n.w.note("%s answers for %v", n.name, n.answering())
	n.table = layer2.NewTable(slices.DeleteFunc(slices.Clone(claims), func(c layer2.Claim) bool {
		return !n.table.ClaimsAnywhere(c.Address) || !slices.ContainsFunc(had, func(h layer2.Claim) bool { return h.Address == c.Address })
	}))
	n.w.changed = true
	n.setting++
	setting, boot := n.setting, n.boot
	wait := n.w.between(0, ms)
	if n.w.rnd.IntN(10) == 0 {
		wait = n.w.between(0, 40*ms)
	}
	n.w.after(wait, func() {
		if n.setting != setting || n.boot != boot {
			return
		}
		n.table = layer2.NewTable(claims)
		n.w.changed = true
		n.schedule.Update(n.time(), claims, n.ifaces())
		n.send()
	})
}

// send sends what the schedule has.
func (n *node) send() {
	if n.w.now < n.shut {
		boot := n.boot
		n.w.after(n.shut-n.w.now, func() {
			if n.boot == boot && n.active() {
				n.send()
			}
		})
		return
	}
	packets, wake := n.schedule.Next(n.time(), nil)
	slices.SortFunc(packets, func(a, b layer2.Gratuitous) int {
		if c := a.Address.Compare(b.Address); c != 0 {
			return c
		}
		return a.Interface - b.Interface
	})
	for _, g := range packets {
		n.gratuitous(g)
	}
	n.sending++
	sending, boot := n.sending, n.boot
	if wake.IsZero() || wake.Sub(n.time()) > 30*time.Second {
		return
	}
	n.w.after(n.until(wake), func() {
		if n.sending == sending && n.boot == boot && n.active() {
			n.send()
		}
	})
}

// gratuitous is heard by whoever answers for the address.
func (n *node) gratuitous(g layer2.Gratuitous) {
	mac := n.station().MAC(g.Interface)
	if n.carrier[n.w.segmentOf(g.Interface)] {
		n.w.cached[g.Address] = n.id
		n.w.changed = true
	}
	n.w.frame(n, g.Interface, func(to *node, at int) {
		if to.running && to.table.Claims(g.Address, at) {
			to.soon(func() {
				to.core.Hear(to.time(), layer2.Heard{At: to.time(), Address: g.Address, MAC: mac, Interface: at, Kind: layer2.HeardAnnouncement})
			})
		}
	})
}

// detect asks whether addresses are in use, by the product's Detection.
func (n *node) detect(q core.Detect) {
	d := layer2.NewDetection(n.time(), q.Addresses, layer2.ServiceTiming, layer2.Pace{Rate: 500}, n.w.rnd.Float64)
	boot := n.boot
	var step func()
	step = func() {
		if n.boot != boot || !n.running {
			return
		}
		probe, wake := d.Next(n.time())
		for _, a := range probe {
			n.w.asks(n, q.Interface, a, func(mac lb.MAC) {
				if !q.OfNode(mac) {
					d.Hear(layer2.Heard{At: n.time(), Address: a, MAC: mac, Interface: q.Interface, Kind: layer2.HeardReply})
				}
			})
		}
		if wake.IsZero() {
			n.soon(func() { n.core.Detected(n.time(), q.Inquiry, d.Found(), false) })
			return
		}
		n.w.after(n.until(wake), step)
	}
	step()
}

// probed asks a station for an address, or everybody if its hardware address is zero,
// and tells whether it answered.
func (n *node) probed(ifindex int, target netip.Addr, mac lb.MAC, answer func(answered bool)) {
	boot, done := n.boot, false
	finish := func(is bool) {
		if !done && n.boot == boot {
			done = true
			answer(is)
		}
	}
	first, window := n.w.now, n.late(ifindex).Window(n.time())
	for k := range window.Questions {
		n.w.after(time.Duration(k)*window.Apart, func() {
			if !done {
				n.w.asks(n, ifindex, target, func(from lb.MAC) {
					if (from == mac || mac == (lb.MAC{})) && !done && n.boot == boot {
						n.late(ifindex).Add(n.time(), n.w.now-first)
						finish(true)
					}
				})
			}
		})
	}
	n.w.after(window.Whole(), func() { finish(false) })
}

// late is how late the answers on an interface's segment have been.
func (n *node) late(ifindex int) *layer2.Lateness {
	if n.lateness[ifindex] == nil {
		n.lateness[ifindex] = &layer2.Lateness{}
	}
	return n.lateness[ifindex]
}

// identify asks whose station it is.
func (n *node) identify(q core.Identify) {
	left := len(q.Candidates)
	var is core.NodeAddress
	for _, c := range q.Candidates {
		n.probed(q.Interface, c.Address, q.MAC, func(answered bool) {
			if answered {
				is = c
			}
			if left--; left == 0 {
				n.soon(func() { n.core.Identified(n.time(), q.Station, is) })
			}
		})
	}
}

// ask asks a suspect's kernel and its speaker on the segments that both are on, and
// its port.
func (n *node) ask(q election.Question) {
	w, other, boot := n.w, n.w.named(q.Suspect.Node), n.boot
	port := election.PortUnknown
	verdict := election.Unknown
	answer := func() {
		if n.boot == boot {
			n.turn(func() {
				n.view.Answered(n.clock(), other.name, election.Answer{Round: q.Round, Segment: verdict, Port: port})
			})
		}
	}
	reached := other.powered && w.calls(n.id, other.id) && other.addr == q.Suspect.Address
	connected := w.now + 150*ms
	switch {
	case reached && !other.running:
		port = election.PortRefused
		w.after(w.between(ms, 5*ms), answer)
		return
	case reached:
		port, connected = election.PortOpen, w.now+w.between(ms, 45*ms)
	}
	left, said := 0, false
	say := func() {
		switch {
		case said || left > 0 && verdict != election.Speaks && !(q.Missed && verdict == election.Answers):
			return
		case verdict == election.Silent, verdict == election.Speaks:
			answer()
		case q.Missed && verdict == election.Answers:
			if n.boot == boot {
				n.turn(func() { n.view.Replied(other.name, q.Round) })
			}
			w.after(max(0, connected-w.now), answer)
		default:
			w.after(max(0, connected-w.now), answer)
		}
		said = true
	}
	ask := func(s election.SegmentQuestion, answered, silent election.Reply) {
		left++
		n.probed(s.Interface, s.Target, s.MAC, func(is bool) {
			left--
			if verdict = max(verdict, silent); is {
				verdict = max(verdict, answered)
			}
			say()
		})
	}
	for s := range election.Voices(n.ifaces(), q.Suspect, q.Round) {
		ask(s, election.Speaks, election.Unknown)
	}
	for s := range election.Shared(n.ifaces(), q.Suspect) {
		ask(s, election.Answers, election.Silent)
	}
	say()
}
