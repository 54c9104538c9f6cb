package report

import (
	"net/netip"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/eligibility"
)

// A Standing says what becomes of announcing an address by one protocol.
type Standing uint8

// Standings.
const (
	// Unasked: no advertisement of the protocol selects the address.
	Unasked Standing = iota
	// StandingAnnounced: a node answers for the address, or advertises it.
	StandingAnnounced
	// StandingUnannounced: none does.
	StandingUnannounced
	// StandingWithheld: none does, because a foreign station uses the address.
	StandingWithheld
	// StandingUnknown: none says so, and a node that may do it says nothing.
	StandingUnknown
)

// Standings are all but Unasked, for metrics.
var Standings = [...]Standing{StandingAnnounced, StandingUnannounced, StandingWithheld, StandingUnknown}

// String returns the Standing as a metric spells it.
func (s Standing) String() string {
	return [...]string{"unasked", "announced", "unannounced", "withheld", "unknown"}[s]
}

// An AddressStanding is that of an address by each protocol. If both are Unasked,
// nothing announces the address.
type AddressStanding struct {
	Address     netip.Addr
	Layer2, BGP Standing
}

// standings says of each address what becomes of it.
func (of *pass) standings(decisions []announce.Decision, layer2 []held, bgp []route) []AddressStanding {
	out := make([]AddressStanding, len(decisions))
	for i, d := range decisions {
		h, r := layer2[i], bgp[i]
		out[i] = AddressStanding{Address: d.Address}
		silent := StandingUnannounced
		if of.unsure(d.Address, r.asked) {
			silent = StandingUnknown
		}
		switch {
		case h.owner != "":
			out[i].Layer2 = StandingAnnounced
		case h.reason == eligibility.AddressConflict:
			out[i].Layer2 = StandingWithheld
		case h.reason > eligibility.NoAdvertisement:
			out[i].Layer2 = silent
		}
		switch {
		case r.nodes > 0:
			out[i].BGP = StandingAnnounced
		case r.asked:
			out[i].BGP = silent
		}
	}
	return out
}
