// Package ranges is the arithmetic of sets of addresses.
//
// A set of addresses is a list of ranges that is sorted (IPv4 first), disjoint
// and without neighbors, so that equal sets are equal lists.
package ranges

import (
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// Union returns the set of the addresses in any of the lists, which need not be
// sets.
func Union(lists ...[]lb.AddressRange) []lb.AddressRange {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(a, b lb.AddressRange) int { return a.First.Compare(b.First) })
	var set []lb.AddressRange
	for _, r := range all {
		if n := len(set) - 1; n >= 0 && touches(set[n], r) {
			if set[n].Last.Less(r.Last) {
				set[n].Last = r.Last
			}
			continue
		}
		set = append(set, r)
	}
	return set
}

// touches reports whether r, which does not begin before s, overlaps s or
// follows it without a gap.
func touches(s, r lb.AddressRange) bool {
	return r.First.BitLen() == s.Last.BitLen() && (r.First.Compare(s.Last) <= 0 || r.First == s.Last.Next())
}

// Intersect returns the set of the addresses in both sets.
func Intersect(a, b []lb.AddressRange) []lb.AddressRange {
	var set []lb.AddressRange
	for i, j := 0, 0; i < len(a) && j < len(b); {
		common := lb.AddressRange{First: a[i].First, Last: a[i].Last}
		if common.First.Less(b[j].First) {
			common.First = b[j].First
		}
		if b[j].Last.Less(common.Last) {
			common.Last = b[j].Last
		}
		// Ranges of different families leave the first above the last, for
		// every IPv4 address is less than every IPv6 address.
		if common.First.Compare(common.Last) <= 0 {
			set = append(set, common)
		}
		if a[i].Last.Less(b[j].Last) {
			i++
		} else {
			j++
		}
	}
	return set
}

// Subtract returns the set of the addresses in a that are not in b, both sets.
func Subtract(a, b []lb.AddressRange) []lb.AddressRange {
	var set []lb.AddressRange
	j := 0
	for _, r := range a {
		for j < len(b) && b[j].Last.Less(r.First) {
			j++
		}
		rest := true
		for k := j; k < len(b) && b[k].First.Compare(r.Last) <= 0; k++ {
			if r.First.Less(b[k].First) {
				set = append(set, lb.AddressRange{First: r.First, Last: b[k].First.Prev()})
			}
			if rest = b[k].Last.Less(r.Last); !rest {
				break
			}
			r.First = b[k].Last.Next()
		}
		if rest {
			set = append(set, r)
		}
	}
	return set
}

// Contains reports whether a set has an address.
func Contains(set []lb.AddressRange, a netip.Addr) bool {
	i, _ := slices.BinarySearchFunc(set, a, func(r lb.AddressRange, a netip.Addr) int { return r.Last.Compare(a) })
	return i < len(set) && set[i].Contains(a)
}

// Prefixes returns the fewest prefixes that cover exactly a set, lowest first,
// but no more than limit of them.
func Prefixes(set []lb.AddressRange, limit int) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, r := range set {
		for first := r.First; first.IsValid() && first.Compare(r.Last) <= 0; {
			if len(prefixes) == limit {
				return prefixes
			}
			p := widest(first, r.Last)
			prefixes = append(prefixes, p)
			first = Of(p).Last.Next()
		}
	}
	return prefixes
}

// widest returns the shortest prefix that starts with first and does not reach
// beyond last.
func widest(first, last netip.Addr) netip.Prefix {
	bits := 0
	for {
		p := netip.PrefixFrom(first, bits)
		if p.Masked() == p && Of(p).Last.Compare(last) <= 0 {
			return p
		}
		bits++
	}
}

// Of returns the addresses of a masked prefix.
func Of(p netip.Prefix) lb.AddressRange {
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(last)
	return lb.AddressRange{First: p.Addr(), Last: a}
}
