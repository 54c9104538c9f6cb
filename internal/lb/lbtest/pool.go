// Package lbtest has the nouns that tests of several packages begin with.
package lbtest

import (
	"math"
	"net/netip"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// Everything returns the pool "everything", which has all addresses. It is younger than
// any other, so it hands out only what no other pool names.
func Everything() lb.Pool {
	var four [4]byte
	var six [16]byte
	first4, first6 := netip.AddrFrom4(four), netip.AddrFrom16(six)
	for i := range six {
		six[i] = math.MaxUint8
	}
	copy(four[:], six[:])
	return lb.Pool{
		Name: "everything", Created: time.Unix(math.MaxInt32, 0),
		Ranges: []lb.AddressRange{{First: first4, Last: netip.AddrFrom4(four)}, {First: first6, Last: netip.AddrFrom16(six)}},
	}
}
