package allocator

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// freeListLimit bounds the free list, which is part of a pool's
// status: about a hundred bytes each make fifty kilobytes of an object that may
// have 1.5 MB, and the API admits as many. Beyond it the oldest are forgotten,
// which makes them as good as new (docs/design/bounds.md).
const freeListLimit = 512

// A pool is a compiled lb.Pool with what is taken from it.
type pool struct {
	lb.Pool
	perFamily [2]perFamily
	// namespaces counts the addresses held under the pool by namespace.
	namespaces map[string]int
	// held and orphans count the addresses held under the pool.
	held, orphans [2]uint64

	place int    // among the automatic pools, in the order in which they serve
	alone *scope // of those who ask for it by name

	said  PoolDecision // last returned
	stale bool         // may differ from what was said
}

// A perFamily is a pool's addresses of one family. Every address of its spans that
// may be handed out is in exactly one place: in use, in the free list, or fresh.
type perFamily struct {
	// spans are the ranges that it may hand out.
	spans []span
	// total counts the addresses that may be handed out, used or not, and external
	// those of them that may not because externalIPs name them. Those who wait are told
	// the total alone, which others do not change.
	total, external uint64
	// nodes counts those that Nodes have, which may not.
	nodes int
	// taken counts the addresses of the spans in use; odd those of them that
	// would not be handed out today.
	taken, odd uint64
	fresh      spanSet
	freeList   []freed // by time, then address
	reserved   int     // how many of the free list are
}

// A freed is an entry of the free list. Its reserved ones wait for the Service
// that held them last; the others wait at the end of the queue.
type freed struct {
	addr
	last     lb.ServiceKey // zero when it moved away of its own accord
	at       time.Time
	reserved bool
}

func (f freed) compare(o freed) int { return cmp.Or(f.at.Compare(o.at), f.addr.compare(o.addr)) }

// compile arranges divided pools, which are sorted by name.
func compile(pools []lb.Pool, origins *origin.Index, nodes map[addr]string) ([]*pool, map[string]*pool) {
	var all []*pool
	byName := make(map[string]*pool, len(pools))
	for _, p := range pools {
		at := &pool{Pool: p, namespaces: map[string]int{}, stale: true}
		all, byName[p.Name] = append(all, at), at
		for _, r := range p.Ranges {
			s := span{number(r.First), number(r.Last)}
			parts, f := []span{s}, s.lo.family()
			if f == v6 {
				parts = s.without(mapped)
			}
			h := &at.perFamily[f]
			for _, part := range parts {
				h.spans = append(h.spans, part)
				size := part.size()
				if f == v4 && p.AvoidBuggyIPs {
					size -= part.buggies()
				}
				h.total = saturate(h.total, size)
			}
		}
		for f := range at.perFamily {
			h := &at.perFamily[f]
			slices.SortFunc(h.spans, func(a, b span) int { return a.lo.compare(b.lo) })
			h.fresh = newSpanSet(h.spans)
		}
	}
	for a := range nodes {
		if p := origins.Owner(a.netip()); p != nil && !(p.AvoidBuggyIPs && a.buggy()) {
			h := &byName[p.Name].perFamily[a.family()]
			h.fresh.remove(a)
			h.nodes++
			if h.total < math.MaxUint64 {
				h.total--
			}
		}
	}
	return all, byName
}

func saturate(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// drains reports whether the pool hands out nothing new.
func (p *pool) drains() bool { return p.Drain || p.Deleting }

// admits reports whether serviceAllocation lets the Service use the pool.
func (p *pool) admits(s *lb.Service) bool {
	a := p.Allocation
	if a == nil {
		return true
	}
	if len(a.Namespaces) > 0 || len(a.NamespaceSelectors) > 0 {
		if !slices.Contains(a.Namespaces, s.Key.Namespace) && !lb.MatchesAny(a.NamespaceSelectors, s.NamespaceLabels) {
			return false
		}
	}
	return s.Labels.SelectedBy(a.ServiceSelectors)
}

func (p *pool) limit() int {
	if p.Allocation == nil {
		return 0
	}
	return p.Allocation.PerNamespaceLimit
}

// priority orders the pools that select a Service; 0 is last.
func (p *pool) priority() uint {
	if p.Allocation.Priority == 0 {
		return math.MaxUint
	}
	return uint(p.Allocation.Priority)
}

// dry reports in constant time whether no address of the family is free.
func (p *pool) dry(f family) bool {
	h := &p.perFamily[f]
	p.skipBuggy(h)
	return h.fresh.empty() && len(h.freeList) == h.reserved
}

// skipBuggy forgets the buggy addresses at the front of the fresh ones. Doing
// it here, rather than when the pool is compiled, keeps a large pool one span.
func (p *pool) skipBuggy(h *perFamily) {
	for p.AvoidBuggyIPs && !h.fresh.empty() && h.fresh.blocks[0][0].lo.buggy() {
		h.fresh.remove(h.fresh.blocks[0][0].lo)
	}
}

// pick chooses a free address; the family is not dry.
func (p *pool) pick(f family, key lb.ServiceKey) addr {
	h := &p.perFamily[f]
	p.skipBuggy(h)
	switch {
	case h.fresh.empty():
		return h.freeList[slices.IndexFunc(h.freeList, func(f freed) bool { return !f.reserved })].addr
	case p.Strategy == lb.Hash:
		return p.pickHashed(h, key)
	default:
		return h.fresh.blocks[0][0].lo
	}
}

// pickHashed takes the first free address at or after the place that the name
// hashes to.
func (p *pool) pickHashed(h *perFamily, key lb.ServiceKey) addr {
	var size uint64
	for _, s := range h.spans {
		size = saturate(size, s.size())
	}
	place, at := hash(key)%size, h.spans[0].lo
	for _, s := range h.spans {
		if n := s.size(); place >= n {
			place -= n
			continue
		}
		at = s.lo.plus(place)
		break
	}
	for {
		a, ok := h.fresh.from(at)
		if !ok {
			return h.fresh.blocks[0][0].lo
		}
		if !p.AvoidBuggyIPs || !a.buggy() {
			return a
		}
		h.fresh.remove(a)
	}
}

// hash is FNV-1a over "namespace/name", its bits then mixed as MurmurHash3
// finishes: similar names land far apart.
func hash(key lb.ServiceKey) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, part := range [...]string{key.Namespace, "/", key.Name} {
		for i := range len(part) {
			h = (h ^ uint64(part[i])) * 0x100000001b3
		}
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// count returns the pool's counts of one family.
func (p *pool) count(f family) Count {
	h := &p.perFamily[f]
	c := Count{Assigned: h.taken, Reserved: uint64(h.reserved), Orphans: p.orphans[f]}
	if h.total == math.MaxUint64 {
		c.Total, c.Available = h.total, h.total
	} else {
		free := h.total - h.external
		c.Total, c.Available = saturate(free, h.odd), free-(h.taken-h.odd)-c.Reserved
	}
	return c
}

// decision returns what the pool's status is to say.
func (p *pool) decision() PoolDecision {
	d := PoolDecision{Pool: p.Name, V4: p.count(v4), V6: p.count(v6), InUse: p.held[v4]+p.held[v6] > 0}
	all := slices.Concat(p.perFamily[v4].freeList, p.perFamily[v6].freeList)
	slices.SortFunc(all, freed.compare)
	for _, e := range all {
		d.Freed = append(d.Freed, lb.FreedAddress{Address: e.netip(), Service: e.last, At: e.at})
	}
	return d
}
