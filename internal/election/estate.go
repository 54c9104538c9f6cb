package election

import (
	"maps"
	"net/netip"

	"github.com/belfrylb/belfry/internal/lb"
)

// An Estate is what a node remembers of addresses, so as to know what their
// places mean.
//
// The owner alone gives an address away to where it is placed, because nobody
// else knows whether the place is newer than its owning: a node that returns may
// have missed that the place has changed, and one that takes over may not be able
// to record itself yet. For the same reason a place decides nothing about an
// address that was claimed and is not any more, because its owner died: those
// who remain may know different places, and each would wait for another.
//
// The zero Estate is ready for use. All of it belongs to one goroutine.
type Estate struct {
	// claimed are the addresses that somebody claimed once.
	claimed map[netip.Addr]struct{}
	// kept are the places that were overridden: the address was taken over from
	// that node, and stays.
	kept    map[netip.Addr]string
	offered map[netip.Addr]bool
}

// Learn takes note of what is claimed. It is to be told before each decision.
func (e *Estate) Learn(members []Member) {
	if e.claimed == nil {
		e.claimed = map[netip.Addr]struct{}{}
	}
	for _, m := range members {
		for a := range m.Claims {
			if _, known := e.claimed[a]; !known {
				e.claimed[a] = struct{}{}
			}
		}
	}
}

// Place returns the place by which to decide about an address, given where it is
// recorded to be and who may own it: none if it was claimed once and nobody
// claims it any more. A nil Estate remembers nothing.
func (e *Estate) Place(a netip.Addr, placed string, failback lb.Failback, candidates []Candidate) string {
	if e == nil || failback == lb.FailbackImmediate {
		return placed
	}
	if _, claimed := e.claimed[a]; !claimed {
		return placed
	}
	for i := range candidates {
		if !candidates[i].Claim.None() {
			return placed
		}
	}
	return ""
}

// Offers returns whether the node self, of this role, is to offer an address to
// the node where it is placed; fit says whether that node could own it and met
// whether it was ever heard. It is to be asked about each address in use after
// each decision. To an address that is not offered the owner's claim is as good
// as it can be.
//
// An address is offered when its place has changed (the controller or a person
// moves it) and when the placed node appears for the first time (the cluster is
// starting). It is not when the placed node returns after a failure.
func (e *Estate) Offers(a netip.Addr, self string, role Role, placed string, fit, met bool) bool {
	offer := false
	switch {
	case role == Bystander || placed == "" || placed == self:
		delete(e.kept, a)
	case role == Holder:
		offer = e.offered[a] // until the other one claims it
	case fit:
		offer = e.kept[a] != placed
	case met:
		if e.kept == nil {
			e.kept = map[netip.Addr]string{}
		}
		e.kept[a] = placed
	}
	if !offer {
		delete(e.offered, a)
		return false
	}
	if e.offered == nil {
		e.offered = map[netip.Addr]bool{}
	}
	e.offered[a] = true
	return true
}

// Forget drops what is remembered of addresses that are not in use any more.
func (e *Estate) Forget(inUse func(netip.Addr) bool) {
	maps.DeleteFunc(e.claimed, func(a netip.Addr, _ struct{}) bool { return !inUse(a) })
	maps.DeleteFunc(e.kept, func(a netip.Addr, _ string) bool { return !inUse(a) })
	maps.DeleteFunc(e.offered, func(a netip.Addr, _ bool) bool { return !inUse(a) })
}
