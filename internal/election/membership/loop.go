package membership

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/belfrylb/belfry/internal/election"
)

// A loop owns everything that changes while a Membership runs. Its methods run
// on one goroutine; what takes time (asking a suspect, exchanging state) runs
// on its own and posts the result.
type loop struct {
	m        *Membership
	ctx      context.Context
	ml       *memberlist.Memberlist
	tr       memberlist.NodeAwareTransport
	patience election.Patience
	start    time.Time // Origin of all times below.
	wg       sync.WaitGroup
	slots    chan struct{} // Held by exchanges.

	local  Local
	self   record // As last told, less the claims.
	ledger election.Ledger
	// whole is the self record encoded, packet the form of it that fits a
	// packet, less its claims if need be; nil when even that does not.
	whole, packet []byte

	peers     map[string]*peer
	places    map[netip.Addr]*place
	exchanges map[netip.Addr]bool // Under way.
	// called is when SetPeers was called first, or zero; synced is set once a
	// node that had learned who owns what told us; learned once there is
	// nothing to wait for any more.
	called          time.Duration
	synced, learned bool

	// stale is set when what is published may not be what is.
	stale bool
	// told identifies the members as last published.
	told []identity
}

// A peer is another node, listed or not.
type peer struct {
	node string
	addr netip.Addr
	life election.Suspicion
	// status is its newest record, claims its newest whole one.
	status, claims *record
	// wire are the two, encoded to be passed on. The second is nil when both
	// are one.
	wire [2][]byte
	// fresh is set once it spoke for itself since gossip found it alive: until
	// then the record may be one of an earlier life.
	fresh bool
	// ask is when to ask it for its record (while it is not fresh).
	ask time.Duration
	// told is when it was last told that its claim is the lesser one.
	told time.Duration
	// sending is set while a large record is on its way, again when a newer
	// one is to follow.
	sending, again bool
	goneAt         time.Duration
}

func (p *peer) listed() bool {
	return p.life.State == election.Alive || p.life.State == election.Suspected || p.life.State == election.Stalled
}

// state is what others should take the member for.
func (p *peer) state() election.State {
	switch {
	case !p.fresh || p.status == nil || p.claims == nil || p.status.joining:
		return election.Joining
	case p.status.leaving:
		return election.Leaving
	default:
		return p.life.State
	}
}

// A place is an address at which a speaker should be, and when to knock there
// and to try an exchange next, should it be missing.
type place struct{ knock, exchange time.Duration }

// An identity changes whenever the member does.
type identity struct {
	node           string
	addr           netip.Addr
	state          election.State
	status, claims *record
	seq            uint64 // This node's own.
}

func (l *loop) now() time.Duration { return time.Since(l.start) }

func (l *loop) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.m.inbox.kick:
		case <-timer.C:
		}
		for _, f := range l.m.inbox.take() {
			f(l)
		}
		timer.Reset(l.tick())
	}
}

// tick does what is due, publishes what changed, and returns how long nothing
// will be due.
func (l *loop) tick() time.Duration {
	now := l.now()
	next := now + time.Minute
	for _, node := range slices.Sorted(maps.Keys(l.peers)) {
		p := l.peers[node]
		l.step(p, election.Tick{})
		if due, ok := p.life.Until(l.patience); ok {
			next = min(next, due)
		}
		switch {
		case p.listed() && !p.fresh:
			if now >= p.ask {
				l.tell(p.addr, knock)
				p.ask = now + knockEvery
			}
			next = min(next, p.ask)
		case !p.listed() && now >= p.goneAt+remember:
			delete(l.peers, node)
			l.stale = true
		}
	}
	next = min(next, l.callMissing(now))
	next = min(next, l.learn(now))
	if l.stale {
		l.stale = false
		l.settle()
		l.publishState()
		l.publishMembers()
	}
	return max(next-l.now(), time.Millisecond)
}

// callMissing knocks at the places where nobody is and tries to exchange state
// with them, for ever. It returns when to do so next.
func (l *loop) callMissing(now time.Duration) time.Duration {
	there := map[netip.Addr]bool{l.self.addr: true}
	for _, p := range l.peers {
		if p.listed() {
			there[p.addr] = true
		}
	}
	missing := 0
	for a := range l.places {
		if !there[a] {
			missing++
		}
	}
	every := max(knockEvery, time.Duration(missing)*knockShare)
	next := now + time.Minute
	for a, pl := range l.places {
		if there[a] {
			pl.knock, pl.exchange = now, now // At once when it is missed.
			continue
		}
		if now >= pl.knock {
			// Spread, so that many missing ones do not come due together.
			pl.knock = now + every*3/4 + rand.N(every/2)
			l.tell(a, knock)
		}
		if now >= pl.exchange {
			pl.exchange = now + rejoinEvery*3/4 + rand.N(rejoinEvery/2)
			l.exchange(a)
		}
		next = min(next, pl.knock, pl.exchange)
	}
	return next
}

// learn decides whether this node knows who owns what, so that it may claim. It
// returns when to look again.
func (l *loop) learn(now time.Duration) time.Duration {
	if l.learned || l.called == 0 {
		return now + time.Minute
	}
	heard := map[netip.Addr]bool{l.self.addr: true}
	for _, p := range l.peers {
		if p.listed() && p.fresh && p.claims != nil {
			heard[p.addr] = true
		}
	}
	all := true
	for a := range l.places {
		all = all && heard[a]
	}
	if !l.synced && !all && now < l.called+grace {
		return l.called + grace
	}
	l.learned, l.stale = true, true
	l.m.log.Info("joined gossip", "members", 1+len(l.listed()), "peers", l.others())
	return now + time.Minute
}

// others returns at how many places another speaker should be.
func (l *loop) others() int {
	n := len(l.places)
	if _, me := l.places[l.self.addr]; me {
		n--
	}
	return n
}

// listed returns the listed peers by name.
func (l *loop) listed() []*peer {
	var ps []*peer
	for _, node := range slices.Sorted(maps.Keys(l.peers)) {
		if p := l.peers[node]; p.listed() {
			ps = append(ps, p)
		}
	}
	return ps
}

// standing returns what a claim made now rests on, and whether every member
// that should be there is heard.
func (l *loop) standing() (s election.Standing, calm bool) {
	hears, knows := 1, 1
	calm = l.learned
	for _, p := range l.peers {
		switch {
		case p.life.State == election.Alive:
			hears, knows = hears+1, knows+1
			calm = calm && p.fresh && p.claims != nil
		case p.listed() || p.life.State == election.Gone && p.life.Cause != election.GoneLeft:
			knows++
			calm = false
		}
	}
	s = election.StandingOf(hears, knows, l.others())
	return s, calm && s == election.Majority
}

// settle brings the ledger and the published record up to date with the rest.
func (l *loop) settle() {
	standing, calm := l.standing()
	changed := l.ledger.Set(l.local.Owned, standing)
	if standing == election.Minority {
		changed = l.ledger.Weaken() || changed
	}
	if calm {
		changed = l.ledger.Calm(func(a netip.Addr) bool {
			for _, p := range l.peers {
				if p.listed() && p.claims != nil && !p.claims.claims[a].None() {
					return true
				}
			}
			return false
		}) || changed
	}
	if changed || l.self.seq == 0 || l.self.joining == l.learned || l.self.leaving != l.local.Leaving ||
		!sameInterfaces(l.self.ifaces, l.local.Interfaces) {
		l.tellAll()
	}
}

// tellAll makes a new record and sends it to everybody, at once and by gossip.
func (l *loop) tellAll() {
	l.renew()
	for _, p := range l.listed() {
		l.tell(p.addr, direct)
		l.tellWhole(p)
	}
	if l.packet != nil {
		l.m.news.QueueBroadcast(news{l.self.node, as(l.packet, relayed)})
	}
}

// renew makes a new record of this node.
func (l *loop) renew() {
	l.self.seq++
	l.self.joining, l.self.leaving = !l.learned, l.local.Leaving
	l.self.ifaces = l.local.Interfaces
	r := l.self
	r.epoch, r.claims, r.whole = l.ledger.Epoch(), l.ledger.Claims(), true
	l.whole = r.encode(nil, direct)
	l.packet = l.whole
	if len(l.packet) > packetSize {
		r.claims, r.whole = nil, false
		l.packet = r.encode(nil, direct)
	}
	if len(l.packet) > packetSize {
		l.packet = nil
	}
}

// as returns a copy of an encoded record, of another kind.
func as(b []byte, k kind) []byte {
	b = slices.Clone(b)
	b[1] = byte(k)
	return b
}

// tell sends this node's record to an address in one packet.
func (l *loop) tell(to netip.Addr, k kind) {
	if l.packet == nil {
		return
	}
	// An error is a packet lost; there will be another.
	_ = l.ml.SendToAddress(memberlist.Address{Addr: hostPort(to, l.m.cfg.Port)}, as(l.packet, k))
}

// tellWhole sends the whole record by stream when it does not fit a packet.
func (l *loop) tellWhole(p *peer) {
	if len(l.whole) <= packetSize {
		return
	}
	if p.sending {
		p.again = true
		return
	}
	p.sending, p.again = true, false
	to, b := &memberlist.Node{Name: p.node, Addr: p.addr.AsSlice(), Port: l.m.cfg.Port}, l.whole
	l.spawn(func() {
		// One that does not get it learns by the next exchange of state.
		_ = l.ml.SendReliable(to, b)
		l.m.inbox.post(func(l *loop) {
			p.sending = false
			if p.again && p.listed() {
				l.tellWhole(p)
			}
		})
	})
}

// spawn runs f on a goroutine of its own, a few at a time.
func (l *loop) spawn(f func()) {
	l.wg.Go(func() {
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
			if l.ctx.Err() == nil {
				f()
			}
		case <-l.ctx.Done():
		}
	})
}

// exchange exchanges all state with whoever is at the address.
func (l *loop) exchange(a netip.Addr) {
	if l.exchanges[a] {
		return
	}
	l.exchanges[a] = true
	l.spawn(func() {
		_, err := l.ml.Join([]string{hostPort(a, l.m.cfg.Port)})
		l.m.metrics.exchanges.WithLabelValues(result(err)).Inc()
		l.m.inbox.post(func(l *loop) { delete(l.exchanges, a) })
	})
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "done"
}

func (l *loop) setLocal(local Local) {
	l.local = copyOf(local)
	l.stale = true
}

func (l *loop) setPeers(peers []netip.Addr) {
	if l.called == 0 {
		l.called = l.now()
	}
	next := map[netip.Addr]*place{}
	for _, a := range peers {
		a = a.Unmap()
		if next[a] = l.places[a]; next[a] == nil {
			next[a] = &place{}
		}
	}
	l.places = next
	l.stale = true
}

func (l *loop) peer(node string) *peer {
	p := l.peers[node]
	if p == nil {
		p = &peer{node: node, goneAt: l.now()}
		l.peers[node] = p
	}
	return p
}

// alive is called when gossip holds a member for alive.
func (l *loop) alive(node string, addr netip.Addr) {
	if node == l.self.node {
		return
	}
	p := l.peer(node)
	if !p.listed() {
		p.fresh, p.ask = false, 0
		l.m.log.Info("member joined", "node", node, "address", addr)
	}
	p.addr = addr
	l.step(p, election.Heard{})
}

// lost is called when gossip holds a member for dead, or when it left.
func (l *loop) lost(node string) {
	p := l.peers[node]
	switch {
	case p == nil || node == l.self.node:
	case p.status != nil && p.status.leaving:
		l.step(p, election.Left{})
	default:
		l.step(p, election.Lost{})
	}
}

// step takes a peer's suspicion one step further.
func (l *loop) step(p *peer, e election.Event) {
	now := l.now()
	before := p.life
	next, ask := p.life.Step(l.patience, now, e)
	p.life = next
	if ask {
		l.ask(p)
	}
	if next.State == before.State {
		return
	}
	l.stale = true
	doubted := before.State == election.Suspected || before.State == election.Stalled
	switch next.State {
	case election.Gone:
		p.goneAt = now
		if doubted {
			l.m.metrics.ended(next.Cause.String(), now-next.Since)
		}
		l.m.log.Info("member gone", "node", p.node, "reason", next.Cause.String(), "after", now-next.Since)
	case election.Alive:
		if doubted {
			l.m.metrics.ended(endRecovered, now-before.Since)
			l.m.log.Info("member recovered", "node", p.node, "after", now-before.Since)
		}
	case election.Stalled:
		l.m.log.Info("member stalled: its kernel answers, its speaker does not", "node", p.node)
	}
}

// portTimeout is how long a connection to a suspect's gossip port may take.
// Only a lost packet or a lost node takes longer; the question is repeated.
const portTimeout = 150 * time.Millisecond

// ask asks the suspect's kernel on the segment and at its gossip port, both at
// once, and hands on what settles the question as soon as it is known.
func (l *loop) ask(p *peer) {
	suspect, round := l.member(p), p.life.Round
	answer := func(v election.Verdict, port election.Port) {
		l.m.inbox.post(func(l *loop) {
			l.step(p, election.Answer{Round: round, Segment: v, Port: port})
		})
	}
	segment := make(chan election.Verdict, 1)
	l.wg.Go(func() {
		v := election.Unknown
		if l.m.confirm != nil {
			v = l.m.confirm.Confirm(l.ctx, suspect)
		}
		if l.ctx.Err() != nil {
			v = election.Unknown // Cut short: that is no silence.
		}
		if v == election.Silent {
			answer(v, election.PortSilent)
		}
		segment <- v
	})
	l.wg.Go(func() {
		port := l.connect(suspect.Address)
		if port == election.PortRefused {
			answer(election.Unknown, port)
			return
		}
		answer(<-segment, port)
	})
}

func (l *loop) connect(a netip.Addr) election.Port {
	c, err := l.tr.DialTimeout(hostPort(a, l.m.cfg.Port), portTimeout)
	switch {
	case err == nil:
		_ = c.Close()
		return election.PortOpen
	case errors.Is(err, syscall.ECONNREFUSED):
		return election.PortRefused
	default:
		return election.PortSilent
	}
}

// receiveState takes the records of another node's state, the first of which is
// its own.
func (l *loop) receiveState(b []byte) {
	items, err := unframe(b)
	if err != nil {
		l.m.metrics.dropped.WithLabelValues(dropMalformed).Inc()
		return
	}
	for n, item := range items {
		r := l.receive(item)
		if n == 0 && r != nil && r.node != l.self.node && !r.joining {
			l.synced = true
		}
	}
}

// receive takes one record, and returns it, or nil when it is malformed.
func (l *loop) receive(b []byte) *record {
	r, k, err := decode(b)
	if err != nil {
		l.m.metrics.dropped.WithLabelValues(dropMalformed).Inc()
		l.m.log.Debug("record dropped", "err", err)
		return nil
	}
	if r.node == l.self.node {
		// Somebody remembers a later one than this: our clock ran back over a
		// restart. Outdo it.
		if r.boot > l.self.boot {
			l.self.boot, l.self.seq = r.boot+1, 0
			l.stale = true
		}
		return &r
	}
	l.ledger.Witness(r.epoch)
	p := l.peer(r.node)
	l.merge(p, &r, b)
	if k == relayed {
		return &r
	}
	if !p.fresh && (p.status == nil || !p.status.newer(&r)) {
		p.fresh, l.stale = true, true
	}
	if !p.listed() {
		p.addr = r.addr
		l.exchange(r.addr)
	}
	if k == knock {
		l.tell(r.addr, direct)
		l.tellWhole(p)
	}
	return &r
}

// merge takes the record over if it is news, passes it on, and tells its node
// when it claims what is rightly ours.
func (l *loop) merge(p *peer, r *record, b []byte) {
	changed := false
	if p.status == nil || r.newer(p.status) {
		if p.status != nil && p.status.boot != r.boot {
			p.claims = nil // What it claimed in an earlier life is void.
		}
		p.status, changed = r, true
	}
	if r.whole && (p.claims == nil || r.newer(p.claims)) {
		p.claims, changed = r, true
	}
	if changed {
		l.stale = true
		b = as(b, relayed)
		if r.whole {
			p.wire[0] = b
		} else {
			p.wire[1] = b
		}
		if p.claims == p.status {
			p.wire[1] = nil
		}
		if p.claims == nil {
			p.wire[0] = nil
		}
		if len(b) <= packetSize {
			l.m.news.QueueBroadcast(news{p.node, b})
		}
	}
	if now := l.now(); p.claims == r && now >= p.told+knockShare {
		for a, theirs := range r.claims {
			if ours := l.ledger.Claims()[a]; !ours.None() && ours.Beats(theirs, a, l.self.node, p.node) {
				p.told = now
				l.tell(r.addr, direct)
				l.tellWhole(p)
				break
			}
		}
	}
}

// publishState replaces what peers are told in an exchange.
func (l *loop) publishState() {
	state := [][]byte{l.whole}
	for _, p := range l.listed() {
		for _, b := range p.wire {
			if b != nil {
				state = append(state, b)
			}
		}
	}
	l.m.state.Store(&state)
}

func (l *loop) member(p *peer) election.Member {
	m := election.Member{Node: p.node, Address: p.addr, State: p.state()}
	if p.status != nil {
		m.Interfaces = p.status.ifaces
	}
	if p.claims != nil {
		m.Claims = p.claims.claims
	}
	return m
}

// publishMembers replaces the list of members if it differs from the last.
func (l *loop) publishMembers() {
	state := election.Alive
	switch {
	case !l.learned:
		state = election.Joining
	case l.local.Leaving:
		state = election.Leaving
	}
	list := []election.Member{{Node: l.self.node, Address: l.self.addr, State: state, Interfaces: l.local.Interfaces, Claims: l.ledger.Claims()}}
	ids := []identity{{node: l.self.node, state: state, seq: l.self.seq}}
	for _, p := range l.listed() {
		list = append(list, l.member(p))
		ids = append(ids, identity{node: p.node, addr: p.addr, state: p.state(), status: p.status, claims: p.claims})
	}
	l.m.size.Store(int32(len(list)))
	if slices.Equal(ids, l.told) {
		return
	}
	l.told = ids
	slices.SortFunc(list, func(a, b election.Member) int { return strings.Compare(a.Node, b.Node) })
	l.m.publishMembers(list)
}

// farewell tells everybody that this node goes, and waits a moment until
// somebody heard.
func (l *loop) farewell() {
	l.local = Local{Leaving: true}
	l.ledger.Set(nil, election.Minority)
	l.tellAll()
	if err := l.ml.Leave(farewellTime); err != nil {
		l.m.log.Debug("gossip", "err", err)
	}
}

// news is a record on its way to everybody; a newer one of the same node takes
// its place.
type news struct {
	node string
	b    []byte
}

// Invalidates reports whether o is of the same node.
func (n news) Invalidates(o memberlist.Broadcast) bool {
	other, ok := o.(news)
	return ok && other.node == n.node
}

// Name is the node's.
func (n news) Name() string { return n.node }

// Message returns the record.
func (n news) Message() []byte { return n.b }

// Finished is of no interest.
func (n news) Finished() {}
