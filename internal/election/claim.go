package election

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// A Quorum says how much of the cluster a node heard when it claimed.
type Quorum uint8

// Quorums, weakest first.
const (
	// NoClaim is the quorum of the zero Claim.
	NoClaim Quorum = iota
	// Offered: it is to go to the node where it is placed, as soon as that claims
	// it.
	Offered
	// Blind: it had heard no other since it started, though there are others; or
	// it found that it was stopped for so long that others may have taken over.
	Blind
	// Minority: it heard half of the members it knew, or fewer, or it was not
	// sure yet that it heard more.
	Minority
	// Majority: it heard more than half of them, for long enough to be sure.
	Majority
)

// String returns the quorum in one word.
func (s Quorum) String() string {
	return [...]string{"none", "offered", "blind", "minority", "majority"}[s]
}

// QuorumOf returns the quorum of a node that hears so many members of those
// it knows, itself among both, and that has or has not met another since it
// started, peers being how many others there should be.
func QuorumOf(hears, knows, peers int) Quorum {
	switch {
	case knows <= 1 && peers > 0:
		return Blind
	case 2*hears > knows:
		return Majority
	default:
		return Minority
	}
}

// A Claim says that a node answers for an address, and since when.
type Claim struct {
	Quorum Quorum
	// Epoch is greater than any its claimant had heard of when it claimed.
	Epoch uint64
}

// None reports whether c is no claim at all.
func (c Claim) None() bool { return c.Quorum == NoClaim }

// compare ranks two claims to one address; positive when c is the better one.
func (c Claim) compare(o Claim) int {
	if r := cmp.Compare(c.Quorum, o.Quorum); r != 0 {
		return r
	}
	if c.Quorum == Majority {
		return cmp.Compare(c.Epoch, o.Epoch)
	}
	return cmp.Compare(o.Epoch, c.Epoch)
}

// Beats reports whether a node's claim c to addr beats the claim o of another
// node. One of the two always beats the other.
func (c Claim) Beats(o Claim, addr netip.Addr, node, other string) bool {
	switch r := c.compare(o); {
	case r > 0:
		return true
	case r < 0:
		return false
	}
	return Precedes(addr, node, other)
}

// Claims are the claims of one node by address, none of which is None. Whoever holds
// them must not change them.
type Claims map[netip.Addr]Claim

// OwnClaims keep a node's claims and its logical clock.
type OwnClaims struct {
	epoch  uint64
	claims Claims
	// offering is set while some may be Offered.
	offering bool
}

// Claims returns the present claims. They are replaced, never changed.
func (l *OwnClaims) Claims() Claims { return l.claims }

// Epoch returns the highest epoch made or witnessed.
func (l *OwnClaims) Epoch() uint64 { return l.epoch }

// Witness takes note of an epoch heard from elsewhere.
func (l *OwnClaims) Witness(epoch uint64) { l.epoch = max(l.epoch, epoch) }

// Set makes owned, which names no address twice, the complete set of claims and
// reports whether that changed anything. Claims held already keep their epoch; the new ones share a new one,
// of the given quorum.
func (l *OwnClaims) Set(owned []netip.Addr, quorum Quorum) (changed bool) {
	held := 0
	for _, a := range owned {
		if !l.claims[a].None() {
			held++
		}
	}
	if held == len(owned) && held == len(l.claims) {
		return false
	}
	if held < len(owned) {
		l.epoch++
	}
	next := make(Claims, len(owned))
	for _, a := range owned {
		c := l.claims[a]
		if c.None() {
			c = Claim{Quorum: quorum, Epoch: l.epoch}
		}
		next[a] = c
	}
	l.claims = next
	return true
}

// Raise raises the claims of a lesser quorum to Majority, under a new epoch,
// unless they are contested. It is for a node that is sure of a majority and has
// heard the claims of every member: what no member contests is rightly its own. It
// reports whether any changed.
func (l *OwnClaims) Raise(contested func(netip.Addr) bool) (changed bool) {
	fresh := Claim{Quorum: Majority, Epoch: l.epoch + 1}
	changed = l.rewrite(func(a netip.Addr, c Claim) Claim {
		if c.Quorum < Majority && !contested(a) {
			return fresh
		}
		return c
	})
	if changed {
		l.epoch = fresh.Epoch
	}
	return changed
}

// Offer makes the claims to these addresses, which are ascending, Offered; those
// that were and are not any more become Blind. Raise must leave out what is
// offered. It reports whether any changed.
func (l *OwnClaims) Offer(offered []netip.Addr) (changed bool) {
	if len(offered) == 0 && !l.offering {
		return false
	}
	l.offering = len(offered) > 0
	return l.rewrite(func(a netip.Addr, c Claim) Claim {
		if _, is := slices.BinarySearchFunc(offered, a, netip.Addr.Compare); is {
			c.Quorum = Offered
		} else {
			c.Quorum = max(c.Quorum, Blind)
		}
		return c
	})
}

// Doubt makes all claims Blind: another member that claims does so rightly. Raise
// ends the doubt about those that none does. It reports whether any changed.
func (l *OwnClaims) Doubt() (changed bool) {
	return l.rewrite(func(_ netip.Addr, c Claim) Claim {
		c.Quorum = min(c.Quorum, Blind)
		return c
	})
}

func (l *OwnClaims) rewrite(f func(netip.Addr, Claim) Claim) (changed bool) {
	var next Claims
	for a, c := range l.claims {
		if d := f(a, c); d != c {
			if next == nil {
				next = maps.Clone(l.claims)
			}
			next[a] = d
		}
	}
	if next == nil {
		return false
	}
	l.claims = next
	return true
}

// Contested returns the addresses that self and another member both claim, in
// order. While there are any, one of the two is about to stop; the other one
// re-announces the address when it is not contested any more.
func Contested(self string, members []Member) []netip.Addr {
	var mine Claims
	for _, m := range members {
		if m.Node == self {
			mine = m.Claims
		}
	}
	var both []netip.Addr
	for _, m := range members {
		if m.Node == self {
			continue
		}
		for a := range m.Claims {
			if _, ok := mine[a]; ok {
				both = append(both, a)
			}
		}
	}
	slices.SortFunc(both, netip.Addr.Compare)
	return slices.Compact(both)
}
