package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Metric is an optional number.
type Metric struct {
	Value uint32
	Set   bool
}

// Some returns a Metric that is set.
func Some(v uint32) Metric { return Metric{v, true} }

// Attributes are what a route says beside its prefix and next hop.
type Attributes struct {
	// LocalPref is for internal peers only.
	LocalPref Metric
	MED       Metric
	// Prepend is how many times our AS is repeated, for external peers only.
	Prepend int
	// Communities are sorted and distinct.
	Communities []lb.Community
	// Endpoints is the weight of the link bandwidth community; 0 is none.
	Endpoints int
}

// Equal reports whether both say the same.
func (a Attributes) Equal(b Attributes) bool {
	return a.LocalPref == b.LocalPref && a.MED == b.MED && a.Prepend == b.Prepend && a.Endpoints == b.Endpoints &&
		slices.Equal(a.Communities, b.Communities)
}

// String returns the attributes that are set, for people and transcripts.
func (a Attributes) String() string {
	var parts []string
	if a.LocalPref.Set {
		parts = append(parts, fmt.Sprintf("local-pref %d", a.LocalPref.Value))
	}
	if a.MED.Set {
		parts = append(parts, fmt.Sprintf("med %d", a.MED.Value))
	}
	if a.Prepend > 0 {
		parts = append(parts, fmt.Sprintf("prepend %d", a.Prepend))
	}
	if len(a.Communities) > 0 {
		names := make([]string, len(a.Communities))
		for i, c := range a.Communities {
			names[i] = c.String()
		}
		parts = append(parts, "communities "+strings.Join(names, ","))
	}
	if a.Endpoints > 0 {
		parts = append(parts, fmt.Sprintf("weight %d", a.Endpoints))
	}
	return strings.Join(parts, " ")
}

// A Route is a prefix to advertise to one peer.
type Route struct {
	Prefix netip.Prefix
	Attributes
}

// String returns the prefix and its attributes.
func (r Route) String() string {
	return strings.TrimRight(r.Prefix.String()+" "+r.Attributes.String(), " ")
}

// Changes lead from one table to another.
type Changes struct {
	// Announce are the routes that are new or that changed, by prefix.
	Announce []Route
	// Withdraw are the prefixes that are gone, ascending.
	Withdraw []netip.Prefix
}

// Empty reports whether there is nothing to change.
func (c Changes) Empty() bool { return len(c.Announce)+len(c.Withdraw) == 0 }

// Diff returns what leads from current to desired, both sorted by prefix.
func Diff(current, desired []Route) Changes {
	var c Changes
	for len(current) > 0 || len(desired) > 0 {
		var order int
		switch {
		case len(current) == 0:
			order = 1
		case len(desired) == 0:
			order = -1
		default:
			order = ComparePrefix(current[0].Prefix, desired[0].Prefix)
		}
		switch {
		case order < 0:
			c.Withdraw = append(c.Withdraw, current[0].Prefix)
			current = current[1:]
		case order > 0:
			c.Announce = append(c.Announce, desired[0])
			desired = desired[1:]
		default:
			if !current[0].Equal(desired[0].Attributes) {
				c.Announce = append(c.Announce, desired[0])
			}
			current, desired = current[1:], desired[1:]
		}
	}
	return c
}

// ComparePrefix orders prefixes by family, address, length.
func ComparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
