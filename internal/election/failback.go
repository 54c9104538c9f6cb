package election

import (
	"maps"
	"net/netip"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Failback is what a node remembers of the addresses that it owns and that are
// placed on others, so as to know which of them to offer.
//
// The owner alone gives an address away to where it is placed, because no other
// node knows whether the place is newer than its owning: a node that returns may
// have missed that the place has changed, and one that takes over may not be able
// to record itself yet. So all that a place can do is done by an offer, and two
// who know different places neither both answer nor both wait for the other.
//
// The zero Failback is ready for use. All of it belongs to one goroutine.
type Failback struct {
	// kept are the places that were overridden: the address was taken over from
	// that node, and stays.
	kept    map[netip.Addr]string
	offered map[netip.Addr]bool
}

// Offers returns whether the node self, of this role, is to offer an address to
// the node where it is placed; fit says whether that node could own it and met
// whether it was ever heard. It is to be asked about each address in use after
// each decision.
//
// An address is offered when it is new and the placed node did not take it, or its
// place has changed (the controller or a person moves it), or the placed node appears for the first time (the
// cluster is starting). It is not when the placed node returns after a failure,
// except with lb.FailbackImmediate.
func (e *Failback) Offers(a netip.Addr, self string, role Role, placed string, failback lb.Failback, fit, met bool) bool {
	offer := false
	switch {
	case role == Backup || placed == "" || placed == self:
		delete(e.kept, a)
	case role == Retiring:
		offer = e.offered[a] // until the other one claims it
	case fit:
		offer = e.kept[a] != placed || failback == lb.FailbackImmediate
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
func (e *Failback) Forget(inUse func(netip.Addr) bool) {
	maps.DeleteFunc(e.kept, func(a netip.Addr, _ string) bool { return !inUse(a) })
	maps.DeleteFunc(e.offered, func(a netip.Addr, _ bool) bool { return !inUse(a) })
}
