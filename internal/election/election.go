package election

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A State is what is known about a member's life.
type State uint8

// States of a member.
const (
	// Joining: it has not learned yet who owns what. No candidate.
	Joining State = iota
	// Alive: it is well.
	Alive
	// Suspected: gossip lost it, and whether it is gone is being confirmed. It
	// keeps what it owns.
	Suspected
	// Stalled: its kernel answers on the segment but its speaker is silent. It
	// keeps what it owns until the slow bound.
	Stalled
	// Cut: gossip does not reach it, and its speaker answers on the segment for what
	// it claimed last. It keeps what it owns.
	Cut
	// Leaving: it said that it is about to go. Candidate of last resort.
	Leaving
	// Gone: it is dead or has left. A gone member is not listed.
	Gone
)

var stateNames = [...]string{"joining", "alive", "suspected", "stalled", "cut", "leaving", "gone"}

// String returns the state in one word.
func (s State) String() string { return stateNames[s] }

// A Version numbers what a node says of itself, in the order of time.
type Version struct{ Boot, Seq uint64 }

// A Member is a node's speaker as gossip knows it. Whoever holds one must not
// change what it refers to.
type Member struct {
	// Node is the node's name, unique in the cluster.
	Node string
	// Address is where its speaker gossips: an address of the node itself.
	Address netip.Addr
	State   State
	// Interfaces are those it can announce on now, with hardware address and
	// subnets.
	Interfaces []lb.Interface
	// Management are interfaces on which it does not announce, by which it can be asked
	// and watched: the one by which it gossips.
	Management []lb.Interface
	// Claims are the addresses it answers for, and Version says which of the node's
	// records they are from: as long as it is the same, so are they. The zero
	// Version is not known.
	Claims  Claims
	Version Version
	// Sessions are what it can tell routers, for whoever counts: the numbers of
	// package bgp that stand for established sessions, ascending. Nothing is
	// decided by them here.
	Sessions []lb.SessionID
}

// A Candidate is a node that may own an address.
type Candidate struct {
	Node string
	// State is the member's. A Joining one never wins.
	State State
	// OnLink is set when a subnet of a usable interface contains the address.
	OnLink bool
	// Weight is the sum of the preferences that match the node.
	Weight int
	// Claim is the node's present claim to the address; the zero Claim is none.
	Claim Claim
}

// class orders candidates by how fit they are; smaller is better, and unfit
// ones are no candidates.
func (c Candidate) class() int {
	switch c.State {
	case Alive:
		return 0
	case Suspected, Stalled, Cut:
		// Keeps what it has, but gets nothing new while another can take it.
		if c.Claim.None() {
			return 1
		}
		return 0
	case Leaving:
		return 2
	default:
		return unfit
	}
}

const unfit = 3

// A Place is where an address is recorded to be, and what follows from that.
type Place struct {
	// Node is the node, or empty.
	Node string
	// Failback says whether the address goes back to it.
	Failback lb.Failback
	// First is set when it may claim the address before the others, while none
	// does, and Last are the nodes that may then only do so after them: see
	// [Holdoff].
	First bool
	Last  []string
}

// Winner returns the node that owns addr, or false when none can. It depends
// neither on the order of the candidates nor on who asks.
//
// The node where the address is placed wins when it is offered the address, when
// no node claims it and it goes first, and with the best claim like any other;
// that the address is placed on it gives it no more. For an address without a
// place, claims carry no weight with lb.FailbackImmediate: the best takes it back.
func Winner(addr netip.Addr, place Place, candidates []Candidate) (node string, ok bool) {
	w := winner(addr, place, candidates)
	if w == nil {
		return "", false
	}
	return w.Node, true
}

func winner(addr netip.Addr, place Place, candidates []Candidate) *Candidate {
	open := unclaimed(candidates)
	if p := placedOf(place.Node, candidates); p != nil && (open && place.First || offered(p, candidates)) {
		return p
	}
	claims := place.Node != "" || place.Failback == lb.FailbackNever
	first := best{addr: addr, claims: claims}
	last := first
	for i := range candidates {
		switch c := &candidates[i]; {
		case c.class() == unfit:
		case open && slices.Contains(place.Last, c.Node):
			last.meet(c)
		default:
			first.meet(c)
		}
	}
	if first.Candidate == nil {
		return last.Candidate
	}
	return first.Candidate
}

// placedOf returns the placed candidate if it is fit, and on-link unless none
// is: the controller does not see interfaces, and one that answers where no client
// asks is no owner.
func placedOf(placed string, candidates []Candidate) *Candidate {
	if placed == "" {
		return nil
	}
	var c *Candidate
	reached := false
	for i := range candidates {
		if candidates[i].Node == placed {
			c = &candidates[i]
		}
		reached = reached || candidates[i].OnLink && candidates[i].class() == 0
	}
	if c == nil || c.class() != 0 || reached && !c.OnLink {
		return nil
	}
	return c
}

// Fit reports whether the node where an address is placed could own it.
func Fit(placed string, candidates []Candidate) bool { return placedOf(placed, candidates) != nil }

// offered reports whether the placed candidate, which has no claim yet, is offered
// the address by all who claim it and could go on doing so.
func offered(placed *Candidate, candidates []Candidate) bool {
	if !placed.Claim.None() {
		return false
	}
	somebody := false
	for i := range candidates {
		c := &candidates[i]
		switch {
		case c.Claim.None() || c.class() != 0 || placed.OnLink && !c.OnLink:
		case c.Claim.Quorum > Offered:
			return false
		default:
			somebody = true
		}
	}
	return somebody
}

func unclaimed(candidates []Candidate) bool {
	return !slices.ContainsFunc(candidates, func(c Candidate) bool { return !c.Claim.None() })
}

// A best is the best candidate for an address so far, claims counting or not.
type best struct {
	*Candidate
	addr   netip.Addr
	claims bool
	// key is the candidate's, once it had to be computed.
	key   [sha256.Size]byte
	keyed bool
}

// meet takes another candidate if it is the better one.
func (b *best) meet(c *Candidate) {
	if b.Candidate == nil {
		b.Candidate = c
	} else if r := b.compare(c); r > 0 {
		b.Candidate, b.keyed = c, false
	} else if r == 0 {
		if !b.keyed {
			b.key, b.keyed = key(b.addr, b.Node), true
		}
		if k := key(b.addr, c.Node); before(k, b.key) {
			b.Candidate, b.key = c, k
		}
	}
}

// compare is positive when c is to be preferred, and 0 when that is left to the
// order of the address.
func (b *best) compare(c *Candidate) int {
	if r := cmp.Compare(b.class(), c.class()); r != 0 {
		return r
	}
	if c.OnLink != b.OnLink {
		if c.OnLink {
			return 1
		}
		return -1
	}
	if b.claims {
		if r := c.Claim.compare(b.Claim); r != 0 {
			return r
		}
	}
	return cmp.Compare(c.Weight, b.Weight)
}

// First returns the first of some nodes in the order of an address, which is
// the one that owns it if they are equally good and none claims it.
func First(addr netip.Addr, nodes []string) string {
	first, least := "", [sha256.Size]byte{}
	for i, n := range nodes {
		if k := key(addr, n); i == 0 || before(k, least) {
			first, least = n, k
		}
	}
	return first
}

// Precedes reports whether node a comes before node b in the order of an address, in
// which all agree without a word.
func Precedes(addr netip.Addr, a, b string) bool {
	return before(key(addr, a), key(addr, b))
}

func before(a, b [sha256.Size]byte) bool { return bytes.Compare(a[:], b[:]) < 0 }

// key is the place of a node in the order of an address. This exact text is
// hashed by MetalLB too; changing it moves addresses on a migration.
func key(addr netip.Addr, node string) [sha256.Size]byte {
	var buf [128]byte
	b := append(buf[:0], node...)
	b = append(b, '#')
	return sha256.Sum256(addr.AppendTo(b))
}

// A Role is what a node does about an address.
type Role uint8

// Roles.
const (
	// Backup: it does not answer.
	Backup Role = iota
	// Retiring: another one is to own the address but does not claim it yet; go
	// on answering until it does.
	Retiring
	// Owner: answer and claim.
	Owner
)

// String returns the role in one word.
func (r Role) String() string { return [...]string{"backup", "retiring", "owner"}[r] }

// RoleOf returns what self does about addr, and which node is the winner (empty when
// none can be).
//
// At most one candidate holds: the best of those that claim it, and only while
// the winner does not.
func RoleOf(self string, addr netip.Addr, place Place, candidates []Candidate) (Role, string) {
	w := winner(addr, place, candidates)
	switch {
	case w == nil:
		return Backup, ""
	case w.Node == self:
		return Owner, self
	case !w.Claim.None():
		return Backup, w.Node
	}
	holder := best{addr: addr, claims: true}
	for i := range candidates {
		if c := &candidates[i]; !c.Claim.None() && c.class() != unfit {
			holder.meet(c)
		}
	}
	if holder.Candidate != nil && holder.Node == self {
		return Retiring, w.Node
	}
	return Backup, w.Node
}
