package election

import (
	"cmp"
	"net/netip"
)

// A Standing says how much of the cluster a node heard when it claimed.
type Standing uint8

// Standings, weakest first.
const (
	// NoClaim is the standing of the zero Claim.
	NoClaim Standing = iota
	// Blind: it had heard nobody since it started, though there are others.
	Blind
	// Minority: it heard half of the members it knew, or fewer.
	Minority
	// Majority: it heard more than half of them.
	Majority
)

// String returns the standing in one word.
func (s Standing) String() string {
	return [...]string{"none", "blind", "minority", "majority"}[s]
}

// StandingOf returns the standing of a node that hears so many members of those
// it knows, itself among both, and that has or has not met another since it
// started, peers being how many others there should be.
func StandingOf(hears, knows, peers int) Standing {
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
	Standing Standing
	// Epoch is greater than any its claimant had heard of when it claimed.
	Epoch uint64
}

// None reports whether c is no claim at all.
func (c Claim) None() bool { return c.Standing == NoClaim }

// compare ranks two claims to one address; positive when c is the better one.
func (c Claim) compare(o Claim) int {
	if r := cmp.Compare(c.Standing, o.Standing); r != 0 || c.None() {
		return r
	}
	if c.Standing == Majority {
		return cmp.Compare(c.Epoch, o.Epoch)
	}
	return cmp.Compare(o.Epoch, c.Epoch)
}

// Claims are the claims of one node by address. Whoever holds them must not
// change them.
type Claims map[netip.Addr]Claim

// A Ledger keeps a node's own claims and its logical clock.
type Ledger struct {
	epoch  uint64
	claims Claims
}

// Claims returns the present claims. They are replaced, never changed.
func (l *Ledger) Claims() Claims { return l.claims }

// Epoch returns the highest epoch made or witnessed.
func (l *Ledger) Epoch() uint64 { return l.epoch }

// Witness takes note of an epoch heard from elsewhere.
func (l *Ledger) Witness(epoch uint64) { l.epoch = max(l.epoch, epoch) }

// Set makes owned the complete set of claims and reports whether that changed
// anything. Claims held already keep their epoch; the new ones share a new one,
// of the given standing.
func (l *Ledger) Set(owned []netip.Addr, standing Standing) (changed bool) {
	next := make(Claims, len(owned))
	fresh := Claim{Standing: standing, Epoch: l.epoch + 1}
	for _, a := range owned {
		if c, held := l.claims[a]; held {
			next[a] = c
			continue
		}
		next[a] = fresh
		l.epoch = fresh.Epoch
		changed = true
	}
	// Nothing new: then it changed exactly if something is gone.
	changed = changed || len(next) != len(l.claims)
	if changed {
		l.claims = next
	}
	return changed
}

// Settle raises claims of a lesser standing to Majority, under a new epoch, and
// reports whether there were any. It is for a node that hears a majority again
// and has compared its claims with those of every member it hears: what is
// still its own then is rightly so.
func (l *Ledger) Settle() (changed bool) {
	next := make(Claims, len(l.claims))
	fresh := Claim{Standing: Majority, Epoch: l.epoch + 1}
	for a, c := range l.claims {
		if c.Standing < Majority {
			c = fresh
			l.epoch = fresh.Epoch
			changed = true
		}
		next[a] = c
	}
	if changed {
		l.claims = next
	}
	return changed
}
