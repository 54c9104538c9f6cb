package sim

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

const ms = time.Millisecond

// lostAfter is how long the simulated gossip needs to lose a silent member: as
// measured of the real one, at least and at most.
const (
	lostSoonest = 260 * ms
	lostLatest  = 420 * ms
	slow        = 1500 * ms
	pingEvery   = 80 * ms
)

// A world is a cluster and everything that is wrong with it.
type world struct {
	now   time.Duration
	seq   int
	queue events
	rnd   *rand.Rand
	loss  float64

	nodes []*node
	addrs []netip.Addr
	// cut[i][j]: packets from i to j are lost.
	cut [][]bool
	// truth is what the API server says.
	truth config

	verbose bool // Keep a history.
	history []string
	failure string
	check   checker
	changed bool // Since the checker looked.
}

// A config is what the API objects say: which addresses are not in use yet, who may
// announce the others, and where they are placed.
type config struct {
	absent map[netip.Addr]bool
	barred map[netip.Addr]map[int]bool
	placed map[netip.Addr]string
}

func (c config) clone() config {
	d := config{absent: maps.Clone(c.absent), barred: map[netip.Addr]map[int]bool{}, placed: maps.Clone(c.placed)}
	for a, m := range c.barred {
		d.barred[a] = maps.Clone(m)
	}
	return d
}

// permits reports whether c lets the same nodes announce as d. Where an address
// is placed is known to some before others, which must do no harm.
func (c config) permits(d config) bool {
	return maps.EqualFunc(c.barred, d.barred, maps.Equal) && maps.Equal(c.absent, d.absent)
}

type node struct {
	w    *world
	id   int
	name string
	addr netip.Addr

	powered, running, paused bool
	carrier                  bool
	leaving                  bool
	boot                     uint64
	offset                   time.Duration // Of its clock.
	rate                     float64

	view     *election.View
	own      *election.Record
	records  []*election.Record
	members  []election.Member
	config   config
	owned    []netip.Addr
	failback election.Failback
	served   map[netip.Addr]bool // that somebody claimed
	holdoff  election.Holdoff
	met      map[string]bool
	// kept are the addresses to be recorded here, recording those about to be.
	kept, recording map[netip.Addr]bool
	// gossip is memberlist's view: whom it holds for alive; since is when it
	// lost touch of a node that it does.
	gossip map[int]bool
	since  map[int]time.Duration

	refreshing bool
	turns      int                      // Of pings.
	refreshed  map[int]*election.Record // What they brought last.

	wake     int // Numbers the timers; only the last one counts.
	deciding bool
	backlog  []func() // What arrived while it was paused.
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

func newWorld(s scenario) *world {
	w := &world{rnd: rand.New(rand.NewPCG(s.seed, 77)), loss: s.loss, truth: config{absent: map[netip.Addr]bool{}, barred: map[netip.Addr]map[int]bool{}, placed: map[netip.Addr]string{}}}
	a4, a6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:100::1")
	for i := range s.addrs {
		if i%2 == 0 {
			w.addrs, a4 = append(w.addrs, a4), a4.Next()
		} else {
			w.addrs, a6 = append(w.addrs, a6), a6.Next()
		}
	}
	for _, st := range s.steps {
		if st.verb == "create" {
			i, _ := strconv.Atoi(st.args[0])
			w.truth.absent[w.addrs[i]] = true
		}
	}
	for i := range s.nodes {
		n := &node{
			w: w, id: i, name: fmt.Sprintf("n%d", i), addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}),
			powered: true, carrier: true, offset: time.Duration(w.rnd.Int64N(int64(time.Hour))), rate: 0.99 + 0.02*w.rnd.Float64(),
			config: w.truth.clone(),
		}
		w.nodes = append(w.nodes, n)
		w.cut = append(w.cut, make([]bool, s.nodes))
		w.after(w.between(0, 300*ms), n.start)
	}
	w.check.init(w)
	return w
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

// linked reports whether i and j hear each other directly.
func (w *world) linked(i, j int) bool {
	return !w.cut[i][j] && !w.cut[j][i] && w.nodes[i].carrier && w.nodes[j].carrier
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

// packet delivers a packet from i to j, maybe.
func (w *world) packet(i, j int, f func(*node)) {
	from, to := w.nodes[i], w.nodes[j]
	if w.cut[i][j] || !from.carrier || !to.carrier || !to.running || w.rnd.Float64() < w.loss {
		return
	}
	d := w.between(100*time.Microsecond, 3*ms)
	if w.rnd.IntN(20) == 0 {
		d += w.between(0, 30*ms)
	}
	boot := to.boot
	w.after(d, func() {
		if to.boot == boot {
			to.turn(func() { f(to) })
		}
	})
}

func (w *world) nodeAt(a netip.Addr) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.addr == a })]
}

func (w *world) named(name string) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.name == name })]
}

// active: the process runs and is not stopped.
func (n *node) active() bool { return n.running && !n.paused }

// clock is the node's own.
func (n *node) clock() time.Duration {
	return n.offset + time.Duration(float64(n.w.now)*n.rate)
}

// start starts the process.
func (n *node) start() {
	if !n.powered || n.running {
		return
	}
	n.boot++
	n.running, n.paused, n.leaving = true, false, false
	n.gossip, n.since, n.refreshed = map[int]bool{}, map[int]time.Duration{}, map[int]*election.Record{}
	n.failback, n.holdoff, n.met = election.Failback{}, election.Holdoff{}, map[string]bool{}
	n.served = map[netip.Addr]bool{}
	n.kept, n.recording = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	n.owned, n.members, n.own, n.records, n.backlog, n.deciding, n.refreshing = nil, nil, nil, nil, nil, false, false
	n.config = n.w.truth.clone()
	n.view = election.NewView(n.name, n.addr, n.boot, election.DefaultPace(3, slow, lostSoonest))
	n.w.note("%s starts", n.name)
	n.w.changed = true
	n.turn(func() {
		var peers []netip.Addr
		for _, p := range n.w.nodes {
			peers = append(peers, p.addr)
		}
		n.view.SetLocal(election.Local{Interfaces: n.ifaces()})
		n.view.SetPeers(n.clock(), peers)
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
	n.backlog, n.owned = nil, nil
	n.w.watch()
}

func (n *node) ifaces() []lb.Interface {
	if !n.carrier {
		return nil
	}
	return []lb.Interface{{Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, 0, byte(n.id)}, Up: true, Carrier: true}}
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
		w.packet(n.id, w.nodeAt(t.To).id, func(to *node) { to.view.Receive(to.clock(), own, t.Kind) })
	}
	for _, r := range e.News {
		for _, k := range w.rnd.Perm(len(w.nodes))[:min(2, len(w.nodes))] {
			if k != n.id && n.gossip[k] {
				w.after(w.between(ms, 30*ms), func() {
					if n.active() {
						w.packet(n.id, k, func(to *node) { to.view.Receive(to.clock(), r, election.Relayed) })
					}
				})
			}
		}
	}
	for _, a := range append(e.Urgent, e.Exchanges...) {
		n.exchange(w.nodeAt(a))
	}
	for _, q := range e.Questions {
		n.ask(q)
	}
	for _, c := range e.Changes {
		w.note("  %s: %s is %v (%v)", n.name, c.Node, c.State, c.Cause)
	}
	if e.Members != nil {
		n.members = e.Members
		n.reconsider()
	}
}

// reconsider runs the speaker's loop soon.
func (n *node) reconsider() {
	if n.deciding {
		return
	}
	n.deciding = true
	boot := n.boot
	n.w.after(n.w.between(100*time.Microsecond, 5*ms), func() {
		if n.boot == boot {
			n.turn(func() { n.deciding = false; n.decide() })
		}
	})
}

// decide answers for what this node finds itself responsible for.
func (n *node) decide() {
	for _, m := range n.members {
		if m.State == election.Alive {
			n.met[m.Node] = true
		}
	}
	now := n.time()
	for _, m := range n.members {
		for a := range m.Claims {
			n.holdoff.Claimed(now, a, m.Node)
			n.served[a] = true
		}
	}
	n.holdoff.Expire(now)
	var owned, offered []netip.Addr
	for _, a := range n.w.addrs {
		placed, candidates := n.config.placed[a], n.candidates(a)
		role, winner := election.RoleOf(n.name, a, n.holdoff.Place(a, election.Place{Node: placed}), candidates)
		if role != election.Backup {
			owned = append(owned, a)
		}
		offers := n.failback.Offers(a, n.name, role, placed, lb.FailbackNever, election.Fit(placed, candidates), n.met[placed])
		if offers {
			offered = append(offered, a)
		}
		if role == election.Backup && winner != "" && n.served[a] && !slices.ContainsFunc(n.members, func(m election.Member) bool { return !m.Claims[a].None() }) {
			n.holdoff.Await(now, a, winner)
		}
		n.kept[a] = role == election.Owner && placed != n.name && n.met[placed] && !offers
		if n.kept[a] {
			n.record(a)
		}
	}
	slices.SortFunc(offered, netip.Addr.Compare)
	if !slices.Equal(owned, n.owned) {
		n.w.note("%s answers for %v", n.name, owned)
		n.w.changed = true
	}
	n.owned = owned
	if at, waits := n.holdoff.Due(); waits {
		boot := n.boot
		n.w.after(time.Duration(float64(at.Sub(now))/n.rate)+ms, func() {
			if n.boot == boot {
				n.reconsider()
			}
		})
	}
	n.view.SetLocal(election.Local{Interfaces: n.ifaces(), Leaving: n.leaving, Owned: slices.Clone(owned), Offered: offered})
}

// time is the node's own.
func (n *node) time() time.Time { return time.Unix(0, 0).Add(n.clock()) }

// news compares what the node has learnt with what it knew before.
func (n *node) news(before config) {
	now := n.time()
	for a := range n.holdoff.New {
		n.holdoff.Leave(now, a, n.config.placed[a])
	}
	for a := range before.absent {
		if !n.config.absent[a] && !slices.ContainsFunc(n.members, func(m election.Member) bool { return !m.Claims[a].None() }) {
			n.holdoff.Leave(now, a, n.config.placed[a])
		}
	}
}

// record writes to the API that an address is placed here now, if that is still
// so after a while. The others learn it when they do.
func (n *node) record(a netip.Addr) {
	if n.recording[a] {
		return
	}
	n.recording[a] = true
	boot, wait := n.boot, n.w.between(ms, 100*ms)
	if i := slices.IndexFunc(n.members, func(m election.Member) bool { return m.Node == n.name }); i < 0 || n.members[i].Claims[a].Quorum < election.Majority {
		wait += time.Second
	}
	var try func()
	try = func() {
		switch {
		case n.boot != boot:
		case !n.active() || !n.carrier:
			n.w.after(100*ms, try)
		default:
			delete(n.recording, a)
			if n.kept[a] && n.config.placed[a] == n.w.truth.placed[a] {
				n.w.note("%s is recorded to have %v", n.name, a)
				n.w.configure(2*time.Second, func(cfg *config) { cfg.placed[a] = n.name })
			}
		}
	}
	n.w.after(wait, try)
}

func (n *node) candidates(a netip.Addr) []election.Candidate {
	var cs []election.Candidate
	for _, m := range n.members {
		usable := len(m.Interfaces) > 0
		if m.Node == n.name {
			usable = n.carrier
		}
		if !usable || n.config.absent[a] || n.config.barred[a][n.w.named(m.Node).id] {
			continue
		}
		cs = append(cs, election.Candidate{Node: m.Node, State: m.State, OnLink: true, Claim: m.Claims[a]})
	}
	return cs
}

// exchange is a push and pull of all state over TCP, and of membership.
func (n *node) exchange(to *node) {
	w := n.w
	a, b := n.boot, to.boot
	w.after(w.between(ms, 6*ms), func() {
		if n.boot != a || to.boot != b || !n.active() || !to.active() || !w.linked(n.id, to.id) {
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
	n.turn(func() { n.view.Heard(n.clock(), other.name, other.addr) })
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
	n.w.after(n.w.between(5*ms, 60*ms), func() {
		if n.boot == a && other.boot == b && n.active() && other.active() && n.w.touches(n.id, other.id) {
			n.hear(other)
		}
	})
}

// watch is memberlist's failure detector: it loses whoever it has no touch with
// for some time. It is called whenever touch may have changed.
func (w *world) watch() {
	w.changed = true
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

// ask asks the suspect's kernel, as the edge does.
func (n *node) ask(q election.Question) {
	w := n.w
	other := w.named(q.Suspect.Node)
	boot := n.boot
	answer := func(d time.Duration, v election.Reply, p election.Port) {
		w.after(d, func() {
			if n.boot == boot {
				n.turn(func() { n.view.Answered(n.clock(), other.name, election.Answer{Round: q.Round, Segment: v, Port: p}) })
			}
		})
	}
	reached := other.powered && w.linked(n.id, other.id)
	lives := false
	for range 3 {
		lives = lives || reached && w.rnd.Float64() > w.loss && w.rnd.Float64() > w.loss
	}
	switch {
	case reached && !other.running:
		answer(w.between(ms, 5*ms), election.Unknown, election.PortRefused)
	case !lives:
		answer(60*ms, election.Silent, election.PortSilent)
	case w.rnd.Float64() < 2*w.loss:
		answer(150*ms, election.Answers, election.PortSilent)
	default:
		answer(w.between(ms, 45*ms), election.Answers, election.PortOpen)
	}
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
	n.refreshing = false
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
	if own := n.own; n.active() && lacks(k) {
		w.packet(n.id, k, func(to *node) {
			to.refreshed[n.id] = own
			to.view.Receive(to.clock(), own, election.Direct)
		})
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
		backlog := n.backlog
		n.backlog = nil
		n.turn(func() {
			// The edge knows by a gap in its heartbeat.
			if d > slow-250*ms {
				n.w.note("%s finds that it was stopped", n.name)
				n.view.Stopped(n.clock())
			}
			for _, f := range backlog {
				f()
			}
		})
		n.w.watch()
		for _, other := range n.w.nodes {
			if other != n && other.active() && !other.gossip[n.id] {
				other.refuted(n)
			}
		}
	})
}

// leave ends the process in good order.
func (n *node) leave(back time.Duration) {
	if !n.active() {
		return
	}
	n.w.note("%s leaves", n.name)
	n.leaving = true
	n.turn(n.decide)
	boot, since := n.boot, n.w.now
	var wait func()
	wait = func() {
		if n.boot != boot || !n.running {
			return
		}
		if len(n.owned) > 0 && n.w.now-since < 2*time.Second || n.paused {
			n.w.after(5*ms, wait)
			return
		}
		for _, other := range n.w.nodes {
			if other != n && other.active() && other.gossip[n.id] && n.w.touches(other.id, n.id) {
				other.gossip[n.id] = false
				delete(other.since, n.id)
				other.turn(func() { other.view.Lost(other.clock(), n.name) })
			}
		}
		n.kill("has left")
		n.w.after(back, n.start)
	}
	n.w.after(5*ms, wait)
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

// plug plugs the cable in or out; the kernel notices at once.
func (n *node) plug(in bool) {
	if in == n.carrier {
		return
	}
	n.w.note("%s: carrier %v", n.name, in)
	n.carrier = in
	n.w.watch()
	if n.running {
		n.turn(n.decide)
	}
}

// configure changes the API objects; each node learns after its own delay.
func (w *world) configure(lag time.Duration, change func(*config)) {
	change(&w.truth)
	for _, n := range w.nodes {
		w.after(w.between(0, lag+ms), func() {
			// What is learnt is the newest state, whatever the event was.
			before := n.config
			n.config = w.truth.clone()
			w.changed = true
			n.turn(func() { n.news(before); n.decide() })
		})
	}
}

func (w *world) String() string {
	var b strings.Builder
	for _, n := range w.nodes {
		fmt.Fprintf(&b, "  %s powered %v running %v paused %v carrier %v answers %v sees", n.name, n.powered, n.running, n.paused, n.carrier, n.owned)
		for _, m := range n.members {
			fmt.Fprintf(&b, " %s:%v%v", m.Node, m.State, m.Claims)
		}
		b.WriteString("\n")
	}
	return b.String()
}
