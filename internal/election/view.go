package election

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Record is what one node says of itself. Of two records of one node the one
// with the greater (Boot, Seq) is the newer. A record does not change once it
// is made.
type Record struct {
	Node string
	// Address is where the node gossips, so that those who hear it can call.
	Address netip.Addr
	// Boot grows with every start of the node's speaker, Seq with every record
	// that it makes.
	Boot, Seq uint64
	// Epoch is the node's logical clock.
	Epoch   uint64
	Joining bool
	Leaving bool
	// Interfaces are those it can announce on, Management others: see [Member].
	Interfaces, Management []lb.Interface
	// Sessions are its established BGP sessions, by their numbers, ascending.
	Sessions []lb.SessionID
	// Claims are all its claims when Whole is set, and left out otherwise: many
	// do not fit into a packet.
	Claims Claims
	Whole  bool
}

// Newer reports whether r is newer than o, which may be nil.
func (r *Record) Newer(o *Record) bool {
	return o == nil || cmp.Or(cmp.Compare(r.Boot, o.Boot), cmp.Compare(r.Seq, o.Seq)) > 0
}

// A Kind says how a record came.
type Kind uint8

// Kinds of records.
const (
	// Relayed by gossip or as part of another node's state; it may be of old.
	Relayed Kind = iota
	// Direct from the node that it is about.
	Direct
	// Knock is direct, from a node that may not hear us; it wants an answer.
	Knock
	// Doubt is a knock from a node whose gossip lost us. It may just have missed
	// that we refuted that, and then we alone can tell it again.
	Doubt
)

// String returns the kind in one word.
func (k Kind) String() string { return [...]string{"relayed", "direct", "knock", "doubt"}[k] }

// Pace relates the durations by which a View acts by itself.
type Pace struct {
	Patience
	// Grace is how long a node that finds no other waits before it believes that
	// it is alone.
	Grace time.Duration
	// Knock is the pause between two knocks at one missing peer, and
	// KnockShare the least pause between two knocks at all, on average, so that
	// many missing peers cost no more than a few.
	Knock, KnockShare time.Duration
	// Exchange is the pause between two attempts at an exchange of state with a
	// missing peer; longer when many are missing. A knock that is heard leads
	// to one at once.
	Exchange time.Duration
	// Remember is how long a member that is gone counts as one that should be
	// there.
	Remember time.Duration
	// Sure is how long after the last loss or return of a member a node that
	// hears a majority can be sure of that. One that is cut off loses the others
	// one after the other, and must not take the first for the only one; and it
	// finds them one after the other when that ends.
	Sure time.Duration
}

// DefaultPace returns the pace of a speaker in a cluster of so many, whose gossip
// needs so long to lose a silent member, of which it must wait slow in all.
//
// Every speaker asks a suspect, so that none depends on another's answer. That
// is much at once for the suspect of a large cluster, so it is asked again less
// often there. The durations are those of docs/design/claims.md and, for Patience,
// docs/design/confirmation.md.
func DefaultPace(size int, slow, lostAfter time.Duration) Pace {
	return Pace{
		Patience: Patience{
			Slow:  slow - lostAfter,
			Again: max(100*time.Millisecond, time.Duration(size)*2*time.Millisecond),
			Watch: max(300*time.Millisecond, time.Duration(size)*10*time.Millisecond),
			Soon:  50 * time.Millisecond,
			Alarm: 6 * time.Millisecond,
		},
		Grace:      time.Second,
		Knock:      100 * time.Millisecond,
		KnockShare: 20 * time.Millisecond,
		Exchange:   2 * time.Second,
		Remember:   10 * time.Minute,
		Sure:       1500 * time.Millisecond, // docs/design/claims.md
	}
}

// A Local is what a node says of itself to its own View.
type Local struct {
	// Interfaces are those it can announce on, Management others: see [Member].
	Interfaces, Management []lb.Interface
	// Sessions are its established BGP sessions, by their numbers, ascending.
	Sessions []lb.SessionID
	// Leaving is set when it is about to go: others take over its addresses
	// while it still answers for them.
	Leaving bool
	// Detection is how its failure is to be detected.
	Detection lb.Detection
	// Owned are the addresses it answers for, as owner or holder, each once.
	Owned []netip.Addr
	// Offered are those of them that it offers to the nodes where they are
	// placed, ascending.
	Offered []netip.Addr
	// Addresses is how many there are to be claimed, by whomever; it is not told. It
	// bounds what others may claim: see [ClaimRoom].
	Addresses int
}

// A Tell asks the edge to send this node's newest record.
type Tell struct {
	To   netip.Addr
	Kind Kind
	// Stream is set where packets do not get through: it is to be sent by a stream, too.
	Stream bool
}

// A Question asks the edge to ask a suspect's kernel. The suspect's process is
// asked by a Tell.
type Question struct {
	Suspect Member
	Round   int
	// Missed is set when a session misses it and gossip holds it for alive: any answer
	// from its segment will do, and is to be told by Replied at once, whatever the
	// rest of the question brings.
	Missed bool
}

// An Alarm tells members that one of them is out of sight and does not answer, so
// that they ask, too: any of them may have to take over what it owns.
type Alarm struct {
	Suspect string
	To      []netip.Addr
}

// A Denial tells one who raised an alarm that the suspect answers.
type Denial struct {
	Suspect string
	To      netip.Addr
}

// A Change is what a member became, for the log and for metrics.
type Change struct {
	Node  string
	State State
	Cause Cause
	// Doubted is set when the member was suspected before, for so long.
	Doubted bool
	For     time.Duration
}

// Effects are what the edge has to do.
type Effects struct {
	Tells     []Tell
	Questions []Question
	// Exchanges are addresses to exchange all state with. Urgent ones go to a
	// node that was just heard, so they must not wait for earlier attempts.
	Exchanges, Urgent []netip.Addr
	// Refute is set when the gossip of all is to hear anew that this node lives.
	Refute bool
	// News are records to pass on by gossip, this node's own among them.
	News []*Record
	// Refused is how many times a name or a record was not taken because there are too
	// many names, or claims.
	Refused int
	// Alarms and Denials are to be sent. Only who can be watched understands them.
	Alarms  []Alarm
	Denials []Denial
	// Changes are for the log. Cleared is how many members were out of sight, were
	// asked and live.
	Changes []Change
	Cleared int
	// Ring is set when who is to be watched has changed.
	Ring *Ring
	// Blocked is set when it changed to whom gossip is blocked.
	Blocked []Blocked
	// Members is set when the list changed.
	Members []Member
	// Records is set when what to hand over in an exchange changed, this node's
	// own first.
	Records []*Record
	// Next is when to call Settle again, unless something happens before.
	Next time.Duration
}

// A View is what one node knows of the others, and what it says of itself. It
// performs nothing: it is told what happened, and Settle returns what to do.
// Times are of the caller's own clock, from any origin, and never run back.
type View struct {
	pace   Pace
	self   Record
	latest *Record // The self record as last told.
	local  Local
	own    OwnClaims

	peers  map[string]*peer
	order  []*peer  // By node.
	places []*place // By address.
	// called is set once SetPeers was called, which was first at calledAt;
	// synced once a node that had learned who owns what told us, so that all
	// who live are known; learned once there is nothing to wait for any more.
	called, synced, learned bool
	calledAt                time.Duration
	urged                   time.Duration // When the next exchange may be urgent, until synced.
	refuted                 time.Duration // When the next doubt may be refuted.

	// moved is set once a member was lost or found, or this process was
	// stopped, which was last at movedAt.
	moved   bool
	movedAt time.Duration
	stopped bool   // And its claims are still to be doubted.
	stood   Quorum // At the last Settle.
	missing int    // How many places are.

	ring Ring
	spot uint64 // Where this node stands on it.

	stale bool // What was published may not be what is.
	told  []identity
	out   Effects
}

// relayAll is the size of cluster up to which every record is passed on, for
// those who do not hear its node itself. In larger ones that costs too much:
// only what came from hand to hand is passed on, and the rest is left to the
// exchanges (docs/design/gossip.md).
const relayAll = 32

// vain is how many knocks at a node that gossip holds for alive have to come to nothing
// until its speaker is asked on the segment for what others say it claims.
const vain = 3

// A peer is another node, listed or not.
type peer struct {
	node string
	addr netip.Addr
	life Suspicion
	// status is its newest record, claims its newest whole one.
	status, claims *Record
	// fresh is set once it spoke for itself since gossip found it alive: until
	// then its record may be one of an earlier life.
	fresh bool
	ask   time.Duration // When to ask for its record, while it is not fresh.
	// knocked is how often that was done.
	knocked int
	seen    time.Duration // When it was listed last, or first heard of.
	gone    time.Duration // When it was given up last.
	help    time.Duration // When to help it join, if it is heard and not listed by then.
	// spot is where it stands on the ring, and watchable is set if it can be watched.
	spot      uint64
	watchable bool
	// held is set while gossip holds it for alive.
	held bool
	// sights are what its watches see, alarmed where those are who want to know.
	sights  map[Watch]Sight
	alarmed []netip.Addr
	// spoke is when it was last heard by itself, and aloof since when, while gossip does
	// not hold it for alive; zero: it does, or it is silent.
	spoke, aloof time.Duration
	// unpinged is how many pings in a row it has answered by a connection alone, and
	// unpingedAt when it was the first of them.
	unpinged   int
	unpingedAt time.Duration
	// unanswered is how many pings in a row no packet of it has answered, unansweredAt when
	// it was the first of them, and sounded when it was last knocked at because of that.
	unanswered            int
	unansweredAt, sounded time.Duration
	// streamed is the record of this node that went to it by a stream last.
	streamed *Record
	// port is what came of connecting to it last, and obstacle what was told of that.
	port     Port
	obstacle Protocols
}

func (p *peer) listed() bool { return p.life.State == Alive || p.life.doubted() }

// gossips reports whether gossip holds it for alive, or has just lost it.
func (p *peer) gossips() bool { return p.listed() && p.life.State != Cut }

// ready reports whether all that it claims is known, by itself.
func (p *peer) ready() bool { return p.listed() && p.fresh && p.claims != nil }

// claiming reports whether it is known to claim anything, so that its speaker can be
// asked for that.
func (p *peer) claiming() bool { return p.claims != nil && len(p.claims.Claims) > 0 }

func (p *peer) member() Member {
	m := Member{Node: p.node, Address: p.addr, State: p.state()}
	if p.status != nil {
		m.Interfaces, m.Management, m.Sessions = p.status.Interfaces, p.status.Management, p.status.Sessions
	}
	if p.claims != nil {
		m.Claims, m.Version = p.claims.Claims, Version{p.claims.Boot, p.claims.Seq}
	}
	return m
}

func (p *peer) state() State {
	switch {
	case !p.ready() || p.status.Joining:
		return Joining
	case p.status.Leaving:
		return Leaving
	default:
		return p.life.State
	}
}

// A place is an address at which another speaker should be.
type place struct {
	addr netip.Addr
	// missing is set while the peer is not there; knock and exchange are when to try
	// that next.
	missing         bool
	knock, exchange time.Duration
}

// An identity changes whenever the member does.
type identity struct {
	node           string
	addr           netip.Addr
	state          State
	status, claims *Record
}

// NewView returns the view of a node that has just started. Boot must be
// greater than at its last start; if it is not, the node corrects that when it
// hears of it.
func NewView(node string, addr netip.Addr, boot uint64, pace Pace) *View {
	v := &View{
		pace: pace, peers: map[string]*peer{}, spot: SpotOf(node),
		self: Record{Node: node, Address: addr, Boot: boot, Whole: true, Claims: Claims{}},
	}
	v.renew()
	return v
}

// SetLocal replaces what this node says of itself. The slices are the View's
// from now on.
func (v *View) SetLocal(local Local) {
	v.local, v.stale = local, true
}

// SetPeers replaces the addresses at which other speakers should be; the node's
// own may be among them.
func (v *View) SetPeers(now time.Duration, peers []netip.Addr) {
	if !v.called {
		v.called, v.calledAt = true, now
	}
	peers = slices.SortedFunc(slices.Values(peers), netip.Addr.Compare)
	var next []*place
	for _, a := range slices.Compact(peers) {
		if a == v.self.Address {
			continue
		}
		if i, known := slices.BinarySearchFunc(v.places, a, func(p *place, a netip.Addr) int { return p.addr.Compare(a) }); known {
			next = append(next, v.places[i])
		} else {
			next = append(next, &place{addr: a})
		}
	}
	v.places, v.stale = next, true
}

// Move says that this node gossips at another address from now on. Gossip begins anew,
// so that all have to be found again; until then they keep what they own.
func (v *View) Move(now time.Duration, addr netip.Addr) {
	v.self.Address = addr
	v.places = slices.DeleteFunc(v.places, func(p *place) bool { return p.addr == addr })
	for _, p := range v.order {
		v.step(now, p, Lost{})
	}
	v.renew()
	v.tellAll()
}

// Room is how many other names a node knows at most, where so many others should
// be. Nodes come and go, and one that has the key but no Node may tell of names
// without end.
func Room(places int) int { return max(64, 4*places) }

// ClaimRoom is how many claims of all other nodes together are remembered, where there
// are so many addresses. A node may hear of claims before it knows of the addresses, and
// must not forget them then; one that has the key may claim addresses without end.
func ClaimRoom(addresses int) int { return max(1<<16, 4*addresses) }

// holds reports whether there is room for the claims of a record, in place of those that
// its node had.
func (v *View) holds(r *Record) bool {
	n := len(r.Claims)
	for _, p := range v.order {
		if p.claims != nil && p.node != r.Node {
			n += len(p.claims.Claims)
		}
	}
	if n > ClaimRoom(v.local.Addresses) {
		v.out.Refused++
		return false
	}
	return true
}

// knows reports whether the name is known or may become so.
func (v *View) knows(node string) bool {
	if v.peers[node] == nil && len(v.peers) >= Room(len(v.places)) {
		v.out.Refused++
		return false
	}
	return true
}

// Heard is called when gossip finds a member alive.
func (v *View) Heard(now time.Duration, node string, addr netip.Addr) {
	if node == v.self.Node || !v.knows(node) {
		return
	}
	p := v.peer(now, node)
	switch p.life.State {
	case Alive:
	case Suspected, Stalled, Cut:
		v.tell(addr, Knock) // Each may have missed what the other said.
	default:
		p.fresh, p.ask, p.knocked = false, now, 0
		if v.learned && v.self.Node > node {
			// One of the two asks, and thereby tells; the other waits a moment.
			p.ask += v.pace.Knock / 2
		}
	}
	if p.addr != addr {
		p.addr, v.stale = addr, true
	}
	p.held = true
	v.step(now, p, Heard{})
}

// Lost is called when gossip finds a member dead, or when it left.
func (v *View) Lost(now time.Duration, node string) {
	p := v.peers[node]
	if p == nil {
		return
	}
	p.held, p.unpinged, p.unanswered = false, 0, 0
	if p.status != nil && p.status.Leaving {
		v.step(now, p, Left{})
	} else {
		v.step(now, p, Lost{})
	}
}

// Answered is called with the answer to a Question.
func (v *View) Answered(now time.Duration, node string, a Answer) {
	p := v.peers[node]
	if p == nil {
		return
	}
	if a.Port != PortUnknown {
		p.port = a.Port
	}
	if a.Round == p.life.Round {
		if !p.fresh && a.Segment == Speaks {
			p.fresh, v.stale = true, true
		}
		if a.Segment == Answers || a.Segment == Speaks {
			v.deny(p)
		}
		p.alarmed = nil
	}
	v.step(now, p, a)
}

// Replied is called when a member that is missed has answered on its segment. What its
// port says may still be missing.
func (v *View) Replied(node string, round int) {
	if p := v.peers[node]; p != nil && p.life.Round == round {
		v.deny(p)
		p.life = p.life.replied()
	}
}

// deny tells those that raised an alarm that the suspect answers.
func (v *View) deny(p *peer) {
	for _, to := range p.alarmed {
		v.out.Denials = append(v.out.Denials, Denial{p.node, to})
	}
	p.alarmed = nil
}

// Watchable says whether a member that gossip knows can be watched.
func (v *View) Watchable(node string, is bool) {
	if p := v.peers[node]; p != nil && p.watchable != is {
		p.watchable, v.stale = is, true
	}
}

// Sighted is called when what a session sees has changed. A member that several
// watch is in sight while any of them sees it.
func (v *View) Sighted(now time.Duration, w Watch, s Sight) {
	if !slices.Contains(v.ring.Watches, w) {
		return // Nobody is watched by that any more.
	}
	p := v.peers[w.Node]
	if p.sights == nil {
		p.sights = map[Watch]Sight{}
	}
	p.sights[w] = s
	v.see(now, p)
}

// see takes in what all watches of a member see.
func (v *View) see(now time.Duration, p *peer) {
	sight := NoSight
	for _, s := range p.sights {
		if s == InSight || sight == NoSight {
			sight = s
		}
	}
	switch {
	case sight == p.life.sight:
	case sight == InSight:
		v.step(now, p, Seen{})
	case sight == OutOfSight:
		v.step(now, p, Missed{})
	default:
		v.step(now, p, Unwatched{})
	}
}

// Alarmed is called when another member's watch misses one, whose answer it awaits.
func (v *View) Alarmed(now time.Duration, from, suspect string) {
	p, by := v.peers[suspect], v.peers[from]
	if p == nil || by == nil || !by.listed() || p.life.State != Alive {
		return
	}
	if !slices.Contains(p.alarmed, by.addr) {
		p.alarmed = append(p.alarmed, by.addr)
	}
	v.step(now, p, Alarmed{})
}

// Denied is called when another member had an answer from a suspect.
func (v *View) Denied(now time.Duration, suspect string) {
	if p := v.peers[suspect]; p != nil {
		v.step(now, p, Spoke{})
	}
}

// Stopped is called when this node's own process did not run for so long that
// others may have taken over what it owns. Whatever they claim is the better
// claim, until it turns out that none did.
func (v *View) Stopped(now time.Duration) {
	v.stopped, v.moved, v.movedAt, v.stale = true, true, now, true
	for _, p := range v.order {
		if p.listed() {
			v.tell(p.addr, Knock)
		}
	}
}

// Receive takes a record of another node.
func (v *View) Receive(now time.Duration, r *Record, k Kind) {
	if p := v.peers[r.Node]; p != nil && k == Direct {
		p.unanswered = 0 // a packet of its own
	}
	v.receive(now, r, k)
}

// receive takes a record, however it came.
func (v *View) receive(now time.Duration, r *Record, k Kind) {
	if r.Node == v.self.Node {
		// Somebody remembers a later one than this: the clock ran back over a
		// restart. Outdo it.
		if r.Boot > v.self.Boot {
			v.self.Boot, v.self.Seq = r.Boot+1, 0
			v.renew()
			v.tellAll()
		}
		return
	}
	if !v.knows(r.Node) {
		return
	}
	if known := v.peers[r.Node]; r.Whole && len(r.Claims) > 0 && (known == nil || r.Newer(known.claims)) && !v.holds(r) {
		return
	}
	v.own.Witness(r.Epoch)
	p := v.peer(now, r.Node)
	changed := false
	if r.Newer(p.status) {
		if p.status == nil || p.status.Boot != r.Boot {
			p.claims = nil // What it claimed in an earlier life is void.
			p.help = now + 2*v.pace.Knock
		}
		p.status, changed = r, true
	}
	if r.Whole && r.Newer(p.claims) && r.Boot == p.status.Boot {
		p.claims, changed = r, true
	}
	if changed {
		v.stale = true
		if k == Relayed || len(v.order) < relayAll {
			v.out.News = append(v.out.News, r)
		}
	}
	if k != Relayed {
		p.spokeAt(now)
		switch {
		case p.life.asked:
			v.step(now, p, Spoke{})
		case p.life.State == Gone && p.held && now >= p.gone+v.pace.Knock:
			// Gossip never lost it, and will not say that it is back.
			v.Heard(now, p.node, p.addr)
		}
		if !p.fresh && !p.status.Newer(r) {
			p.fresh, v.stale = true, true
		}
		if !p.gossips() && !p.held && v.urges(now, p) {
			v.out.Urgent = append(v.out.Urgent, r.Address)
		}
	}
	if k == Doubt && now >= v.refuted {
		v.out.Refute, v.refuted = true, now+v.pace.Knock
	}
	if k == Knock || k == Doubt || v.disputes(p, r) {
		v.tell(r.Address, Direct)
	}
}

// urges reports whether to exchange state at once with a node just heard that
// gossip does not list. A node that joins asks for itself, and a single exchange
// makes it known to all and tells it of all; if everybody hurried to meet it, each
// of a few hundred would be told a few hundred times of a few hundred. One that was
// lost and is heard again in the same life is met at once.
func (v *View) urges(now time.Duration, p *peer) bool {
	switch {
	case !v.synced:
		if now < v.urged {
			return false
		}
		v.urged = now + v.pace.Knock
		return true
	default:
		return now >= p.help
	}
}

// disputes reports whether the record, just received, claims what is rightly
// this node's. Its node must be told so: it may not know.
func (v *View) disputes(p *peer, r *Record) bool {
	if p.claims != r {
		return false
	}
	for a, theirs := range r.Claims {
		if v.own.Claims()[a].Beats(theirs, a, v.self.Node, p.node) {
			return true
		}
	}
	return false
}

// ReceiveState takes all records of another node's state, the first of which
// is its own.
func (v *View) ReceiveState(now time.Duration, rs []*Record) {
	for i, r := range rs {
		k := Relayed
		if i == 0 {
			k = Direct
			v.synced = v.synced || r.Node != v.self.Node && !r.Joining
		}
		v.receive(now, r, k)
		v.inquire(now, r.Node)
	}
}

// inquire asks the segment about a node that another one lists and gossip has never
// found: it may be cut off. What it owns must be known before this node claims anything.
func (v *View) inquire(now time.Duration, node string) {
	if p := v.peers[node]; p != nil && p.life == (Suspicion{}) && p.claiming() {
		p.addr = p.status.Address
		p.life, _ = p.life.Step(v.pace.Patience, now, Heard{})
		v.step(now, p, Lost{})
	}
}

// Settle does what is due by now, and returns everything to do since it was
// called last. It is to be called after each of the other methods, or after a
// batch of them.
func (v *View) Settle(now time.Duration) Effects {
	next := now + time.Minute
	for _, p := range v.order {
		if _, doubted := p.life.Until(v.pace.Patience); doubted {
			v.step(now, p, Tick{})
			if due, still := p.life.Until(v.pace.Patience); still {
				next = min(next, due)
			}
		}
		if at, alarms := p.life.Alarms(v.pace.Patience); alarms && now >= at {
			p.life = p.life.told()
			v.alarm(p)
		}
		if at, alarms := p.life.Alarms(v.pace.Patience); alarms {
			next = min(next, max(at, now+time.Millisecond))
		}
		switch {
		case !p.listed():
			if now >= p.seen+v.pace.Remember && p.obstacle == 0 { // else it would be told of for ever
				delete(v.peers, p.node)
			}
			continue
		case !p.fresh:
			if now >= p.ask {
				v.tell(p.addr, Knock)
				p.ask = now + v.pace.Knock
				if p.knocked++; p.knocked%vain == 0 && p.claiming() && p.life.State == Alive {
					// Its own words are lost on the way, those of others about it are not. Its
					// speaker can show that they are true.
					v.out.Questions = append(v.out.Questions, Question{Suspect: p.member(), Round: p.life.Round})
				}
			}
			next = min(next, p.ask)
		}
		p.seen = now
	}
	if len(v.order) != len(v.peers) {
		v.order = slices.DeleteFunc(v.order, func(p *peer) bool { return v.peers[p.node] != p })
	}
	next = min(next, v.callMissing(now), v.learn(now))
	quorum, sure, wait := v.quorum(now)
	if wait {
		next = min(next, sure)
	}
	v.tellBlocked(now)
	if v.stale || quorum != v.stood {
		v.stale, v.stood = false, quorum
		v.settleClaims(quorum)
		v.publish()
		v.watch(now)
	}
	v.stream()
	out := v.out
	out.Next = next
	v.out = Effects{}
	return out
}

// callMissing knocks at expected peers that are missing, for ever. It
// returns when to do so next.
func (v *View) callMissing(now time.Duration) time.Duration {
	if v.stale {
		v.findMissing(now)
	}
	next := now + time.Minute
	share := time.Duration(v.missing) * v.pace.KnockShare
	knock, exchange := max(v.pace.Knock, share), max(v.pace.Exchange, 5*share)
	for _, pl := range v.places {
		if !pl.missing {
			continue
		}
		if now >= pl.knock {
			pl.knock = now + spread(pl.addr, now, knock)
			v.tell(pl.addr, Knock)
		}
		if now >= pl.exchange {
			pl.exchange = now + spread(pl.addr, now, exchange)
			v.out.Exchanges = append(v.out.Exchanges, pl.addr)
		}
		next = min(next, pl.knock, pl.exchange)
	}
	return next
}

// findMissing marks the expected peers that are missing; new ones are called at once.
func (v *View) findMissing(now time.Duration) {
	there := make(map[netip.Addr]bool, len(v.order))
	for _, p := range v.order {
		there[p.addr] = there[p.addr] || p.gossips()
	}
	v.missing = 0
	var fresh time.Duration
	for _, pl := range v.places {
		missing := !there[pl.addr]
		if missing && !pl.missing {
			// At once, but not hundreds in one moment.
			pl.knock, pl.exchange = now+fresh*v.pace.KnockShare, now+5*fresh*v.pace.KnockShare
			fresh++
		}
		if pl.missing = missing; missing {
			v.missing++
		}
	}
}

// spread returns a duration between three quarters of d and d and a quarter,
// so that what is missed together is not called together for ever.
func spread(a netip.Addr, now, d time.Duration) time.Duration {
	h := fnv.New32a()
	b := a.As16()
	_, _ = h.Write(binary.BigEndian.AppendUint64(b[:], uint64(now)))
	return d*3/4 + d/2*time.Duration(h.Sum32()>>16)/(1<<16)
}

// learn decides whether this node knows who owns what, so that it may claim. It
// returns when to look again.
func (v *View) learn(now time.Duration) time.Duration {
	if v.learned || !v.called {
		return now + time.Minute
	}
	// What others told of a member is no proof that it is so still: each has to
	// speak for itself. And if none of them knew, none may be missing.
	all := v.synced || v.missing == 0
	for _, p := range v.order {
		all = all && (!p.listed() || p.ready())
	}
	if end := v.calledAt + v.pace.Grace; !all && now < end {
		return end
	}
	v.learned, v.stale = true, true
	return now + time.Minute
}

// quorum returns what a claim made now rests on. A Majority is one that the
// node is sure of, and all who live have told what they claim. If time alone
// will make a Majority of it, quorum returns when.
func (v *View) quorum(now time.Duration) (s Quorum, sure time.Duration, wait bool) {
	hears, knows, told := 1, 1, v.learned
	for _, p := range v.order {
		switch {
		case p.life.State == Alive:
			hears, knows = hears+1, knows+1
			told = told && p.ready()
		case p.listed():
			knows, told = knows+1, false
		case p.life.State == Gone && p.life.Cause != GoneLeft:
			knows++
		}
	}
	s, sure = QuorumOf(hears, knows, len(v.places)), v.movedAt+v.pace.Sure
	switch {
	case s != Majority:
	case !told:
		s = Minority
	case v.moved && now < sure:
		s, wait = Minority, true
	}
	return s, sure, wait
}

// settleClaims brings the claims up to date with the rest, and tells everybody
// if this node has something new to say.
func (v *View) settleClaims(quorum Quorum) {
	changed := v.own.Set(v.local.Owned, quorum)
	changed = v.own.Offer(v.local.Offered) || changed
	if v.stopped {
		changed, v.stopped = v.own.Doubt() || changed, false
	}
	if quorum == Majority {
		changed = v.own.Raise(func(a netip.Addr) bool { return v.offered(a) || v.contested(a) }) || changed
	}
	if changed || v.self.Joining == v.learned || v.self.Leaving != v.local.Leaving ||
		!sameInterfaces(v.self.Interfaces, v.local.Interfaces) || !sameInterfaces(v.self.Management, v.local.Management) || !slices.Equal(v.self.Sessions, v.local.Sessions) {
		v.renew()
		v.tellAll()
	}
}

// offered reports whether this node offers the address to another.
func (v *View) offered(a netip.Addr) bool {
	_, is := slices.BinarySearchFunc(v.local.Offered, a, netip.Addr.Compare)
	return is
}

// contested reports whether another member claims the address.
func (v *View) contested(a netip.Addr) bool {
	for _, p := range v.order {
		if p.ready() && !p.claims.Claims[a].None() {
			return true
		}
	}
	return false
}

func sameInterfaces(a, b []lb.Interface) bool {
	return slices.EqualFunc(a, b, func(x, y lb.Interface) bool {
		return x.Index == y.Index && x.Name == y.Name && x.MAC == y.MAC && slices.Equal(x.Addresses, y.Addresses)
	})
}

// renew makes a new record of this node.
func (v *View) renew() {
	v.self.Seq++
	v.self.Epoch = v.own.Epoch()
	v.self.Joining, v.self.Leaving = !v.learned, v.local.Leaving
	v.self.Interfaces, v.self.Management, v.self.Sessions = v.local.Interfaces, v.local.Management, v.local.Sessions
	if c := v.own.Claims(); c != nil {
		v.self.Claims = c
	}
	latest := v.self
	v.latest, v.stale = &latest, true
}

// tellAll tells everybody, at once and by gossip.
func (v *View) tellAll() {
	for _, p := range v.order {
		if p.listed() {
			v.tell(p.addr, Direct)
		}
	}
	v.out.News = append(v.out.News, v.latest)
}

func (v *View) tell(to netip.Addr, k Kind) {
	for i, t := range v.out.Tells {
		if t.To == to {
			v.out.Tells[i].Kind = max(t.Kind, k)
			return
		}
	}
	v.out.Tells = append(v.out.Tells, Tell{To: to, Kind: k})
}

// publish returns the list of members and the records to hand over, if they
// differ from the last.
func (v *View) publish() {
	state := Alive
	switch {
	case !v.learned:
		state = Joining
	case v.local.Leaving:
		state = Leaving
	}
	ids := append(make([]identity, 0, 1+len(v.order)), identity{node: v.self.Node, state: state, status: v.latest})
	for _, p := range v.order {
		if p.listed() {
			ids = append(ids, identity{node: p.node, addr: p.addr, state: p.state(), status: p.status, claims: p.claims})
		}
	}
	if slices.Equal(ids, v.told) {
		return
	}
	v.told = ids
	list := make([]Member, 0, len(ids))
	records := append(make([]*Record, 0, len(ids)), v.latest)
	for _, p := range v.order {
		if !p.listed() {
			continue
		}
		list = append(list, p.member())
		if p.claims != nil {
			records = append(records, p.claims)
		}
		if p.status != p.claims {
			records = append(records, p.status)
		}
	}
	self := Member{Node: v.self.Node, Address: v.self.Address, State: state, Interfaces: v.self.Interfaces, Management: v.self.Management, Claims: v.self.Claims, Version: Version{v.self.Boot, v.self.Seq}, Sessions: v.self.Sessions}
	i, _ := slices.BinarySearchFunc(list, v.self.Node, func(m Member, node string) int { return strings.Compare(m.Node, node) })
	list = slices.Insert(list, i, self)
	v.out.Members, v.out.Records = list, records
}

// watch brings who is watched up to date. Whatever was seen of one who is not watched
// any more counts no longer.
func (v *View) watch(now time.Duration) {
	var ring Ring
	if v.local.Detection == lb.DetectFast {
		var others []Stander
		for _, p := range v.order {
			if p.listed() && p.watchable && p.status != nil {
				others = append(others, Stander{p.node, p.spot, p.status.Interfaces, p.status.Management, p.claims != nil && len(p.claims.Claims) > 0})
			}
		}
		ring = RingOf(Stander{v.self.Node, v.spot, v.local.Interfaces, v.local.Management, len(v.own.Claims()) > 0}, others)
	}
	if ring.Equal(v.ring) {
		return
	}
	v.ring, v.out.Ring = ring, &ring
	for _, p := range v.order {
		before := len(p.sights)
		maps.DeleteFunc(p.sights, func(w Watch, _ Sight) bool { return !slices.Contains(ring.Watches, w) })
		if len(p.sights) != before {
			v.see(now, p)
		}
	}
}

// alarm has the others ask, too, and the suspect once more whether it lives.
func (v *View) alarm(suspect *peer) {
	v.tell(suspect.addr, Knock)
	a := Alarm{Suspect: suspect.node}
	for _, p := range v.order {
		if p != suspect && p.listed() && p.watchable {
			a.To = append(a.To, p.addr)
		}
	}
	if len(a.To) > 0 {
		v.out.Alarms = append(v.out.Alarms, a)
	}
}

func (v *View) peer(now time.Duration, node string) *peer {
	p := v.peers[node]
	if p == nil {
		p = &peer{node: node, seen: now, spot: SpotOf(node)}
		v.peers[node] = p
		i, _ := slices.BinarySearchFunc(v.order, node, func(p *peer, node string) int { return strings.Compare(p.node, node) })
		v.order = slices.Insert(v.order, i, p)
	}
	return p
}

// step takes a peer's suspicion one step further.
func (v *View) step(now time.Duration, p *peer, e Event) {
	before := p.life
	next, ask := p.life.Step(v.pace.Patience, now, e)
	p.life = next
	if ask {
		v.out.Questions = append(v.out.Questions, Question{Suspect: p.member(), Round: next.Round, Missed: next.asked})
		k := Doubt
		if next.asked {
			k = Knock // Gossip holds it for alive: there is nothing to refute.
		}
		v.tell(p.addr, k)
	}
	if next.State == before.State {
		if before.asked && !next.asked {
			v.out.Cleared++
		}
		return
	}
	v.stale = true
	if next.State == Gone {
		p.gone, p.alarmed = now, nil
	}
	if next.Cause != GoneLeft {
		v.moved, v.movedAt = true, now
	}
	c := Change{Node: p.node, State: next.State, Cause: next.Cause}
	switch {
	case before.doubted():
		c.Doubted, c.For = true, now-before.Lost
	case before.asked && next.State == Gone:
		c.Doubted, c.For = true, now-before.Since
	}
	v.out.Changes = append(v.out.Changes, c)
}
