package core

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Transition says that a node began to answer for an address, or ceased to,
// and why.
type Transition struct {
	At      time.Time
	Address netip.Addr
	Kind    Kind
	Cause   Cause
	// From is the node that owned the address before and To the one that does
	// now, as far as this node knew; empty for none.
	From, To string
	// Silence is for how long an owner that was lost had not been well.
	Silence time.Duration
	// Held is for how long this node had answered for an address that it gave up.
	Held time.Duration
	// Station is the hardware address of the station behind a ForeignStation.
	Station lb.MAC
}

// A Kind says what a Transition is.
type Kind uint8

// Kinds of transitions.
const (
	// Acquired: this node answers for the address from now on.
	Acquired Kind = iota
	// HandedOver: this node has stopped, and another one claims the address.
	HandedOver
	// Released: this node has stopped, and no node claims the address.
	Released
	// Withheld: this node owns the address and does not answer for it, because a
	// foreign station uses it.
	Withheld
)

// Kinds are all kinds, for metrics.
var Kinds = [...]Kind{Acquired, HandedOver, Released, Withheld}

// String returns the kind as a metric and a status spell it.
func (k Kind) String() string {
	return [...]string{"Acquired", "HandedOver", "Released", "Withheld"}[k]
}

// A Cause says why a Transition came about.
type Cause uint8

// Causes of transitions.
const (
	// Unowned: no node owned the address. Of [Acquired].
	Unowned Cause = iota
	// OwnerLost: the node that owned it is not heard any more. Of [Acquired].
	OwnerLost
	// Handover: its owner gave it to another node, which is placed there, or
	// remains while the owner is drained or leaves.
	Handover
	// Contest: two nodes claimed it, and the other claim ranks higher. Of
	// [HandedOver].
	Contest
	// NotEligible: this node may not announce it any more, or cannot: it has no
	// usable interface. Of [Released].
	NotEligible
	// NotInUse: no Service uses it any more. Of [Released].
	NotInUse
	// Leaving: the speaker stops. Of [Released].
	Leaving
	// ForeignStation: a station that is no speaker uses it. Of [Withheld].
	ForeignStation
)

// String returns the cause as a status spells it.
func (c Cause) String() string {
	return [...]string{
		"Unowned", "OwnerLost", "Handover", "Contest", "NotEligible", "NotInUse", "Leaving", "ForeignStation",
	}[c]
}

// transit notes how the addresses that this node answers for differ from those
// before.
func (c *Core) transit(now time.Time, before announce.Intent, claims []layer2.Claim) {
	withheld := c.acd.Withheld()
	for _, a := range slices.SortedFunc(maps.Keys(withheld), netip.Addr.Compare) {
		if by := withheld[a]; by != (layer2.Heard{}) && by.MAC != c.view.Withheld[a].MAC {
			c.out.Transitions = append(c.out.Transitions, Transition{
				At: now, Address: a, Kind: Withheld, Cause: ForeignStation, From: c.cfg.Node, Station: by.MAC,
			})
		}
	}
	had := c.view.Answers
	if slices.EqualFunc(had, claims, func(a Answer, c layer2.Claim) bool { return a.Claim.Equal(c) }) {
		return
	}
	ceased := func(a Answer) {
		if by := withheld[a.Address]; by == (layer2.Heard{}) {
			t := c.ceased(now, a.Address)
			t.Held = now.Sub(a.Since)
			c.out.Transitions = append(c.out.Transitions, t)
		}
	}
	answers := make([]Answer, 0, len(claims))
	for _, claim := range claims {
		for len(had) > 0 && had[0].Address.Less(claim.Address) {
			ceased(had[0])
			had = had[1:]
		}
		if len(had) > 0 && had[0].Address == claim.Address {
			answers = append(answers, Answer{claim, had[0].Since, had[0].Cause, had[0].From})
			had = had[1:]
			continue
		}
		t := c.acquired(now, before, claim.Address)
		c.out.Transitions = append(c.out.Transitions, t)
		answers = append(answers, Answer{claim, now, t.Cause, t.From})
	}
	for _, a := range had {
		ceased(a)
	}
	c.view.Answers = answers
}

// acquired says how this node came to answer for an address.
func (c *Core) acquired(now time.Time, before announce.Intent, a netip.Addr) Transition {
	t := Transition{At: now, Address: a, Kind: Acquired, To: c.cfg.Node}
	if by, resumes := c.resumed[a]; resumes {
		t.From, t.Cause = by, OwnerLost
		return t
	}
	was, _ := before.Decision(a)
	if was.Owner == "" || was.Owner == c.cfg.Node {
		return t
	}
	t.From = was.Owner
	if c.claimed(t.From, a) {
		t.Cause = Handover
	} else {
		t.Cause, t.Silence = OwnerLost, c.neighbors.silence(now, t.From)
	}
	return t
}

// ceased says why this node does not answer for an address any more.
func (c *Core) ceased(now time.Time, a netip.Addr) Transition {
	t := Transition{At: now, Address: a, Kind: Released, From: c.cfg.Node}
	d, inUse := c.intent.Decision(a)
	switch {
	case !inUse:
		t.Cause = NotInUse
	case c.yields(a):
		t.Kind, t.To, t.Cause = HandedOver, c.disputes[a].node, Contest
	case d.Owner == "" || d.Owner == c.cfg.Node:
		t.Cause = NotEligible
	case !c.claimed(d.Owner, a):
		t.To, t.Cause = d.Owner, NotEligible
	default:
		t.Kind, t.To, t.Cause = HandedOver, d.Owner, Contest
		if _, was := c.given[a]; was || c.leaving {
			t.Cause = Handover
		} else {
			c.yielded[a] = now.Add(YieldPause)
		}
	}
	return t
}

// claimed reports whether a member claims an address.
func (c *Core) claimed(node string, a netip.Addr) bool {
	i, listed := find(c.members, node)
	return listed && !c.members[i].Claims[a].None()
}
