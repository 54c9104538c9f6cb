// Package origin says which pool an address belongs to, and whether it is ours at
// all.
//
// Two questions, two answers. Which pool may hand an address out is a matter of the
// pools alone: [Divide] leaves each address with one of those that name it. Whose an
// address in use is, [Index.Of] says, for the allocator, for both protocols, and for
// the explanations of what they do:
//
//   - The pool that covers it, which any pool does that names it in its ranges. Where
//     several do, it is the one that gave it by our record; without a record, the one
//     that may hand it out. So a pool that grows over another's range takes nothing
//     that is in use.
//   - The pool that gave it by our record, where that does not cover it any more: until
//     it is deleted, even if another pool covers the address, and where none does, even then.
//     Such an address is an orphan. So no edit of pools takes an address in use from
//     its pool's advertisements, nor from a Service that asked for that pool.
//   - Where there is no record either, nobody's: it is foreign. Somebody else wrote it
//     into the Service's status, and nobody announces it. So is what stands there
//     beside addresses that our record names, whatever pool covers it: we write both
//     together, so we have not given that one.
//
// A record stands where those who own Services cannot write: in the status of the
// Service, beside the address and written with it, and for orphans in the status of
// the pool as well. What an annotation says is no record.
//
// An address of a Node is never given, so one that no record names is foreign though a
// pool covers it. One that a record names was given before the Node had it; it stays
// with its Service, and [Origin.Node] keeps it from being announced.
package origin

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A Standing says what an address in use is to us.
type Standing uint8

// Standings.
const (
	// Foreign: no pool covers it and no record names it, or the record names others.
	Foreign Standing = iota
	// Orphan: the pool that gave it does not cover it any more.
	Orphan
	// Covered: it lies in the ranges of the pool.
	Covered
)

// String returns the standing in a word.
func (s Standing) String() string { return [...]string{"foreign", "orphan", "covered"}[s] }

// An Origin is where an address in a Service's status comes from.
type Origin struct {
	Standing
	// Pool is the pool that it belongs to. That of an orphan may be gone; a foreign
	// address has none.
	Pool string
	// Node has the address for itself; empty when no Node has.
	Node string
}

// An Index answers for all addresses. It does not change.
type Index struct {
	segments []segment // by address; disjoint
	pools    map[string]*lb.Pool
	records  map[netip.Addr]string
	nodes    map[netip.Addr]string
}

// A segment is a range that one pool may hand out.
type segment struct {
	lb.AddressRange
	pool *lb.Pool
}

// New arranges divided pools, and Nodes, by address. Their order does not matter. The
// Index refers to the pools.
func New(pools []lb.Pool, nodes []lb.Node) *Index {
	ix := &Index{
		pools:   make(map[string]*lb.Pool, len(pools)),
		records: map[netip.Addr]string{},
		nodes:   map[netip.Addr]string{},
	}
	for _, p := range ranked(pools) {
		ix.pools[p.Name] = p
		for _, r := range p.Ranges {
			ix.segments = append(ix.segments, segment{r, p})
		}
		for _, a := range p.Records {
			if _, known := ix.records[a]; !known {
				ix.records[a] = p.Name
			}
		}
	}
	slices.SortFunc(ix.segments, func(a, b segment) int { return a.First.Compare(b.First) })
	for _, n := range nodes {
		for _, a := range n.Addresses {
			if name, known := ix.nodes[a]; !known || n.Name < name {
				ix.nodes[a] = n.Name
			}
		}
	}
	return ix
}

// Of returns where an address that a Service's status shows comes from.
func (ix *Index) Of(s *lb.Service, a netip.Addr) Origin {
	recorded := s.RecordOf(a)
	if recorded == "" && s.Recorded() {
		return Origin{Node: ix.nodes[a]}
	}
	return ix.Find(a, recorded)
}

// Find returns where an address in use comes from, given the pool that the record in
// its Service's status names; empty for none.
func (ix *Index) Find(a netip.Addr, recorded string) Origin {
	o := Origin{Node: ix.nodes[a]}
	if recorded == "" {
		recorded = ix.records[a]
	}
	if ix.Covers(recorded, a) {
		o.Standing, o.Pool = Covered, recorded
		return o
	}
	if p := ix.pools[recorded]; p != nil && !p.Deleting {
		o.Standing, o.Pool = Orphan, recorded
		return o
	}
	if p := ix.Owner(a); p != nil && (o.Node == "" || recorded != "") {
		o.Standing, o.Pool = Covered, p.Name
		return o
	}
	if recorded != "" {
		o.Standing, o.Pool = Orphan, recorded
	}
	return o
}

// Owner returns the pool that may hand an address out, or nil.
func (ix *Index) Owner(a netip.Addr) *lb.Pool {
	i := ix.from(a)
	if i == len(ix.segments) || !ix.segments[i].Contains(a) {
		return nil
	}
	return ix.segments[i].pool
}

// Across calls each with every part of a range that a pool may hand out, lowest first.
func (ix *Index) Across(r lb.AddressRange, each func(p *lb.Pool, part lb.AddressRange)) {
	for i := ix.from(r.First); i < len(ix.segments) && ix.segments[i].First.Compare(r.Last) <= 0; i++ {
		part := ix.segments[i].AddressRange
		if part.First.Less(r.First) {
			part.First = r.First
		}
		if r.Last.Less(part.Last) {
			part.Last = r.Last
		}
		each(ix.segments[i].pool, part)
	}
}

// from returns the first segment that does not end before an address.
func (ix *Index) from(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(ix.segments, a, func(s segment, a netip.Addr) int { return s.Last.Compare(a) })
	return i
}

// Covers reports whether the pool of a name covers an address, even if another hands it out.
func (ix *Index) Covers(name string, a netip.Addr) bool {
	p := ix.pools[name]
	return p != nil && covers(p, a)
}

// Pool returns the pool of a name, or nil.
func (ix *Index) Pool(name string) *lb.Pool { return ix.pools[name] }

// Node returns the Node that has an address, or empty.
func (ix *Index) Node(a netip.Addr) string { return ix.nodes[a] }

// covers reports whether a pool names an address, even if another hands it out.
func covers(p *lb.Pool, a netip.Addr) bool {
	return ranges.Contains(p.Ranges, a) || ranges.Contains(p.Lost, a)
}

// ranked returns the pools in the order in which they have a right to what several of
// them name: those that are being deleted last, then the older first, then by name.
func ranked(pools []lb.Pool) []*lb.Pool {
	order := make([]*lb.Pool, len(pools))
	for i := range pools {
		order[i] = &pools[i]
	}
	slices.SortFunc(order, func(a, b *lb.Pool) int {
		switch {
		case a.Deleting && !b.Deleting:
			return 1
		case b.Deleting && !a.Deleting:
			return -1
		default:
			return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
		}
	})
	return order
}
