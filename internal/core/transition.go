package core

import (
	"net/netip"
	"time"

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
	// Station is the hardware address of the station behind a ForeignStation.
	Station lb.MAC
}

// A Kind says what a Transition is.
type Kind uint8

// Kinds of transitions.
const (
	// Acquired: this node answers for the address from now on.
	Acquired Kind = iota
	// HandedOver: this node has stopped, and another one owns the address.
	HandedOver
	// Released: this node has stopped, and no node owns the address.
	Released
	// Withheld: this node owns the address and does not answer for it, because a
	// foreign station uses it.
	Withheld
)

// Kinds are all kinds, for whoever counts them.
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
	// usable interface. No other node can either. Of [Released].
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
