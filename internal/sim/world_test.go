package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/election"
)

const ms = time.Millisecond

// lostAfter is how long the simulated gossip needs to lose a silent member: as
// measured of the real one, at least and at most.
const (
	lostSoonest = 260 * ms
	lostLatest  = 420 * ms
	slow        = 1500 * ms
	pingEvery   = 80 * ms
	// fanout is to how many nodes news is passed on at a time, retransmits how often.
	fanout, retransmits = 3, 2
)

// catchUp is how long a node that was stopped waits before it answers again.
const catchUp = 500 * ms

// A world is a cluster and everything that is wrong with it.
type world struct {
	now   time.Duration
	seq   int
	queue events
	rnd   *rand.Rand

	nodes []*node
	addrs []netip.Addr
	// gossip is the network between the speakers, segments are those on which
	// addresses are answered for. A node's first interface carries gossip, too.
	gossip   *network
	segments []*network
	// truth is what the API server says; placing is set while a controller places
	// addresses.
	truth   config
	placing bool
	// cached is which node the neighbors heard last with an address.
	cached map[netip.Addr]int
	// once: each address is answered for by exactly one node, whatever happens.
	once bool
	// twin: each node has another interface on its first segment.
	twin bool

	verbose bool // Keep a history.
	history []string
	failure string
	check   checker
	changed bool // Since the checker looked.
}

type event struct {
	at  time.Duration
	seq int
	f   func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rnd.Int64N(int64(b-a)+1))
}

func (w *world) after(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, f})
}

// run runs the world until a time or the first failure.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until && w.failure == "" {
		e := heap.Pop(&w.queue).(event)
		w.check.before(e.at)
		w.now = e.at
		e.f()
	}
	w.check.before(until)
	w.now = until
}

func (w *world) note(format string, args ...any) {
	if w.verbose {
		w.history = append(w.history, fmt.Sprintf("%9.3fs  ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("at %.3fs: ", w.now.Seconds()) + fmt.Sprintf(format, args...)
	}
}

// nodeAt returns the node that gossips at an address, or nil.
func (w *world) nodeAt(a netip.Addr) *node {
	for _, n := range w.nodes {
		if n.addr == a {
			return n
		}
	}
	return nil
}

func (w *world) named(name string) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.name == name })]
}

// turn lets the process run f and what follows from it; a paused one does so
// when it resumes.
func (n *node) turn(f func()) {
	if !n.running {
		return
	}
	if n.paused {
		n.backlog = append(n.backlog, f)
		return
	}
	f()
	n.settle()
}

func (n *node) settle() {
	e := n.view.Settle(n.clock())
	n.perform(e)
	n.wake++
	wake, boot := n.wake, n.boot
	d := max(time.Duration(float64(e.Next-n.clock())/n.rate), ms)
	if d > 30*time.Second {
		return // Nothing is due.
	}
	n.w.after(d+n.w.between(0, 2*ms), func() {
		if n.wake == wake && n.boot == boot {
			n.turn(func() {})
		}
	})
}

func (n *node) perform(e election.Effects) {
	w := n.w
	if e.Records != nil {
		n.own, n.records = e.Records[0], e.Records
		w.changed = true
		n.refresh()
	}
	own := n.own
	for _, t := range e.Tells {
		hear := func(to *node) { to.view.Receive(to.clock(), own, t.Kind) }
		w.packet(n, w.nodeAt(t.To), hear)
		if t.Stream {
			w.stream(n, w.nodeAt(t.To), hear)
		}
	}
	for _, r := range e.News {
		for range retransmits {
			for _, k := range w.rnd.Perm(len(w.nodes))[:min(fanout, len(w.nodes))] {
				if k != n.id && n.gossip[k] {
					w.after(w.between(ms, 30*ms), func() {
						if n.active() {
							w.packet(n, w.nodes[k], func(to *node) { to.view.Receive(to.clock(), r, election.Relayed) })
						}
					})
				}
			}
		}
	}
	for _, a := range append(e.Urgent, e.Exchanges...) {
		if to := w.nodeAt(a); to != nil {
			n.exchange(to)
		}
	}
	for _, q := range e.Questions {
		n.ask(q)
	}
	for _, a := range e.Alarms {
		for _, to := range a.To {
			w.packet(n, w.nodeAt(to), func(to *node) { to.view.Alarmed(to.clock(), n.name, a.Suspect) })
		}
	}
	for _, d := range e.Denials {
		w.packet(n, w.nodeAt(d.To), func(to *node) { to.view.Denied(to.clock(), d.Suspect) })
	}
	if e.Ring != nil {
		n.setRing(*e.Ring)
	}
	if e.Blocked != nil {
		w.note("  %s: gossip is blocked to %v", n.name, e.Blocked)
		n.blocked = e.Blocked
	}
	for _, c := range e.Changes {
		w.note("  %s: %s is %v (%v)", n.name, c.Node, c.State, c.Cause)
	}
	if e.Members != nil {
		n.members = e.Members
		n.soon(func() { n.core.SetMembers(n.time(), n.members) })
	}
}

// exchange is a push and pull of all state over TCP, and of membership.
func (n *node) exchange(to *node) {
	w := n.w
	a, b := n.boot, to.boot
	w.after(w.between(ms, 6*ms), func() {
		if n.boot != a || to.boot != b || !n.active() || !to.active() || !w.calls(n.id, to.id) {
			return
		}
		mine, theirs := n.records, to.records
		n.meet(to)
		to.meet(n)
		if mine != nil {
			to.turn(func() { to.view.ReceiveState(to.clock(), mine) })
		}
		if theirs != nil {
			n.turn(func() { n.view.ReceiveState(n.clock(), theirs) })
		}
	})
}

// meet takes over whom the other holds for alive; those hear of this node soon.
func (n *node) meet(other *node) {
	n.hear(other)
	for k, third := range n.w.nodes {
		if other.gossip[k] && third != n {
			n.hear(third)
			boot := third.boot
			n.w.after(n.w.between(5*ms, 80*ms), func() {
				if third.boot == boot && third.active() && n.w.touches(third.id, n.id) {
					third.hear(n)
				}
			})
		}
	}
}

// hear makes gossip hold another node for alive.
func (n *node) hear(other *node) {
	if n.gossip[other.id] {
		return
	}
	n.gossip[other.id] = true
	delete(n.since, other.id)
	if n.own != nil {
		n.refresh()
	}
	n.turn(func() {
		n.view.Heard(n.clock(), other.name, other.addr)
		n.view.Watchable(other.name, other.fast)
	})
	n.w.watch()
}

// lose makes gossip hold another node for dead. One that lives refutes.
func (n *node) lose(other *node) {
	n.gossip[other.id] = false
	delete(n.since, other.id)
	n.turn(func() { n.view.Lost(n.clock(), other.name) })
	n.refuted(other)
}

func (n *node) refuted(other *node) {
	a, b := n.boot, other.boot
	n.w.after(n.w.between(5*ms, 60*ms)+n.w.between(0, 2*n.w.gossip.late), func() {
		if n.boot == a && other.boot == b && n.active() && other.active() && n.w.touches(n.id, other.id) {
			n.hear(other)
		}
	})
}

// watch is memberlist's failure detector: it loses whoever it has no touch with
// for some time. It is called whenever touch may have changed.
func (w *world) watch() {
	w.changed = true
	w.sight()
	for _, n := range w.nodes {
		if !n.active() {
			continue
		}
		for k, other := range w.nodes {
			if !n.gossip[k] {
				continue
			}
			if w.touches(n.id, k) {
				delete(n.since, k)
				continue
			}
			if _, known := n.since[k]; known {
				continue
			}
			n.since[k] = w.now
			since, boot := w.now, n.boot
			w.after(w.between(lostSoonest, lostLatest), func() {
				if at, still := n.since[k]; n.boot == boot && still && at == since && n.active() && !w.touches(n.id, k) {
					n.lose(other)
				}
			})
		}
	}
}

// pingBound is how long a ping may take.
const pingBound = 50 * ms

// misjudge has a node take another one for dead now and then, while answers to pings
// take longer than they may.
func (w *world) misjudge() {
	if w.gossip.late < pingBound {
		return
	}
	if n, other := w.nodes[w.rnd.IntN(len(w.nodes))], w.nodes[w.rnd.IntN(len(w.nodes))]; n != other && n.active() && n.gossip[other.id] {
		n.lose(other)
	}
	w.after(w.between(200*ms, 2*time.Second), w.misjudge)
}

// refresh is what acks of pings bring along: another node's record, in turn. It
// goes on while somebody lacks the newest.
func (n *node) refresh() {
	if n.refreshing {
		return
	}
	n.refreshing = true
	boot := n.boot
	n.w.after(n.w.between(0, pingEvery), func() {
		if n.boot == boot {
			n.ping()
		}
	})
}

func (n *node) ping() {
	w := n.w
	lacks := func(k int) bool { return n.gossip[k] && w.nodes[k].refreshed[n.id] != n.own }
	n.refreshing = w.gossip.only == "udp"
	for k := range w.nodes {
		n.refreshing = n.refreshing || lacks(k)
	}
	if !n.refreshing {
		return
	}
	boot := n.boot
	w.after(pingEvery, func() {
		if n.boot == boot {
			n.ping()
		}
	})
	n.turns++
	k := (n.id + 1 + n.turns%(len(w.nodes)-1)) % len(w.nodes)
	if w.gossip.only == "udp" && w.gossip.cut[n.id][k] && n.gossip[k] && w.touches(n.id, k) {
		n.turn(func() {
			n.view.Unanswered(n.clock(), w.nodes[k].name)
			if !w.relayed(n.id, k) {
				n.view.Pinged(n.clock(), w.nodes[k].name, election.TCP)
			}
		})
	}
	if own := n.own; n.active() && lacks(k) {
		w.packet(n, w.nodes[k], func(to *node) {
			to.refreshed[n.id] = own
			to.view.Receive(to.clock(), own, election.Direct)
		})
	}
}

// pinged has pings answered by UDP again.
func (w *world) pinged() {
	for _, n := range w.nodes {
		if n.active() {
			n.turn(func() {
				for _, other := range w.nodes {
					n.view.Pinged(n.clock(), other.name, election.UDP)
				}
			})
		}
	}
}

// pause stops the process for a while.
func (n *node) pause(d time.Duration) {
	if !n.active() {
		return
	}
	n.w.note("%s is stopped for %v", n.name, d)
	n.paused = true
	boot := n.boot
	n.w.watch()
	n.w.after(d, func() {
		if n.boot != boot {
			return
		}
		n.w.note("%s resumes", n.name)
		n.paused = false
		stopped := d > slow-250*ms
		if stopped {
			n.shut = n.w.now + catchUp
			n.w.after(catchUp, func() { n.w.changed = true })
		}
		clear(n.since) // its failure detector did not run
		backlog := n.backlog
		n.backlog = nil
		n.turn(func() {
			// The edge knows by a gap in its heartbeat.
			if stopped {
				n.w.note("%s finds that it was stopped", n.name)
				n.view.Stopped(n.clock())
			}
			for _, f := range backlog {
				f()
			}
			n.act()
			n.send()
		})
		n.w.watch()
		for _, other := range n.w.nodes {
			if other != n && other.active() && !other.gossip[n.id] {
				other.refuted(n)
			}
		}
	})
}

// power switches the whole machine.
func (n *node) power(on bool) {
	if on == n.powered {
		return
	}
	if !on {
		n.kill("loses power")
		n.powered = false
		return
	}
	n.powered = true
	n.start()
}

func (w *world) String() string {
	var b strings.Builder
	for _, n := range w.nodes {
		fmt.Fprintf(&b, "  %s powered %v running %v paused %v carrier %v answers %v sees", n.name, n.powered, n.running, n.paused, n.carrier, n.answering())
		for _, m := range n.members {
			fmt.Fprintf(&b, " %s:%v%v", m.Node, m.State, m.Claims)
		}
		b.WriteString("\n")
	}
	return b.String()
}
