package election

import (
	"strconv"
	"strings"
	"time"
)

// Protocols are those by which speakers gossip, as a set.
type Protocols uint8

// The protocols.
const (
	UDP Protocols = 1 << iota
	TCP
)

// ProtocolsOf returns the set of the protocols with these names.
func ProtocolsOf(names []string) (p Protocols) {
	for _, n := range names {
		switch n {
		case "UDP":
			p |= UDP
		case "TCP":
			p |= TCP
		}
	}
	return p
}

// Names returns the names of the protocols in a set.
func (p Protocols) Names() (names []string) {
	if p&UDP != 0 {
		names = append(names, "UDP")
	}
	if p&TCP != 0 {
		names = append(names, "TCP")
	}
	return names
}

// String names them in a sentence.
func (p Protocols) String() string { return strings.Join(p.Names(), " and ") }

// A Blocked is another node whose speaker is there, and to which gossip does not get
// through by some protocols.
type Blocked struct {
	Node      string
	Protocols Protocols
}

// describedMost is how many nodes a sentence names (docs/design/gossip-cut.md).
const describedMost = 3

// Describe says in a sentence to which nodes gossip is blocked, empty for none.
func Describe(blocked []Blocked) string {
	if len(blocked) == 0 {
		return ""
	}
	var to []string
	for _, b := range blocked[:min(len(blocked), describedMost)] {
		to = append(to, b.Node+" ("+b.Protocols.String()+")")
	}
	if more := len(blocked) - describedMost; more > 0 {
		to = append(to, strconv.Itoa(more)+" more")
	}
	return "gossip is blocked between this node and " + strings.Join(to, ", ") + ": see that its port is open between the nodes, by UDP and by TCP"
}

// blockedAfter is how long gossip has to be blocked to be told: gossip loses members and
// finds them again, and a node that joins is heard before it is found
// (docs/design/gossip-cut.md).
const blockedAfter = 3 * time.Second

// unpingedLeast is how many pings in a row have to be answered by a connection alone until
// that is told, so that it is not chance where packets are lost
// (docs/design/gossip-cut.md).
const unpingedLeast = 3

// unansweredLeast is how many pings in a row have to be answered by no packet of the member
// itself, nor a knock, until that is told (docs/design/gossip-cut.md).
const unansweredLeast = 6

// knockPause is the least time between two knocks at a member that answers no ping
// (docs/design/gossip-cut.md).
const knockPause = time.Second

// Pinged is called when a member has answered a ping: by UDP, or by TCP alone, because no
// packet came back in time.
func (v *View) Pinged(now time.Duration, node string, by Protocols) {
	p := v.peers[node]
	switch {
	case p == nil:
	case by&UDP != 0:
		p.unpinged, p.unanswered = 0, 0
	default:
		if p.unpinged++; p.unpinged == 1 {
			p.unpingedAt = now
		}
		if p.streamed != v.latest {
			v.tell(p.addr, Direct) // what an answer to its ping would have brought it
		}
	}
}

// Unanswered is called when no packet of a member has come back in time after a ping. Mostly
// others ping it as well, and pass on that it lives: gossip goes on, and nobody notices that
// it does not get through between the two. Or its answers are late. So the member is
// knocked at, and what it says then counts as an answer.
func (v *View) Unanswered(now time.Duration, node string) {
	p := v.peers[node]
	if p == nil || p.life.State != Alive {
		return
	}
	if p.unanswered++; p.unanswered == 1 {
		p.unansweredAt = now
	}
	if p.unanswered >= vain && now >= p.sounded+knockPause {
		p.sounded = now
		v.tell(p.addr, Knock)
	}
}

// stream has those told by a stream, too, whom packets do not reach.
func (v *View) stream() {
	for _, p := range v.order {
		if p.unpinged == 0 {
			continue
		}
		for i := range v.out.Tells {
			if t := &v.out.Tells[i]; t.To == p.addr {
				t.Stream, p.streamed = true, v.latest
			}
		}
	}
}

// blocked returns by which protocols gossip with a peer has not got through for long
// enough to be told. What proves that its speaker is there is an answer on the segment, a
// packet of its own, or an answer by a connection.
func (p *peer) blocked(now time.Duration) (b Protocols) {
	speaks := p.aloof > 0 && now-p.spoke < blockedAfter
	switch {
	case p.life.State == Cut && now-p.life.Lost >= blockedAfter:
		if !speaks {
			b |= UDP
		}
		if p.port != PortOpen {
			b |= TCP
		}
	case p.life.State == Stalled:
		b = p.obstacle // that it is silent for a moment does not end it
	case p.life.State == Alive && p.unpinged >= unpingedLeast && now-p.unpingedAt >= blockedAfter:
		b = UDP // gossip holds it for alive by connections alone
	case p.life.State == Alive && p.unanswered >= unansweredLeast && now-p.unansweredAt >= blockedAfter:
		b = UDP // or by what others say
	case !p.listed() && speaks && now-p.aloof >= blockedAfter:
		b = TCP // its packets come, and no exchange has made it a member
	}
	return b
}

// tellBlocked returns to which peers gossip is blocked, if that has changed.
func (v *View) tellBlocked(now time.Duration) {
	changed := false
	for _, p := range v.order {
		if p.gossips() || now-p.spoke >= blockedAfter {
			p.aloof = 0
		}
		if b := p.blocked(now); b != p.obstacle {
			p.obstacle, changed = b, true
		}
	}
	if !changed {
		return
	}
	v.out.Blocked = []Blocked{}
	for _, p := range v.order {
		if p.obstacle != 0 {
			v.out.Blocked = append(v.out.Blocked, Blocked{p.node, p.obstacle})
		}
	}
}

// spokeAt takes note of a packet or a record that came from a peer itself.
func (p *peer) spokeAt(now time.Duration) {
	p.spoke = now
	if p.aloof == 0 && !p.gossips() {
		p.aloof = max(now, 1)
	}
}
