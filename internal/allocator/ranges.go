package allocator

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"sort"

	"github.com/belfrylb/belfry/internal/lb"
)

// An addr is an address as a number of 128 bits. IPv4 stands at its mapped
// place (::ffff:0:0/96), so that one number names one address; the ranges of
// IPv6 leave that place out.
type addr struct{ hi, lo uint64 }

var (
	mapped   = span{addr{0, 0xffff_0000_0000}, addr{0, 0xffff_ffff_ffff}}
	families = [2]lb.Family{lb.IPv4, lb.IPv6}
)

func number(a netip.Addr) addr {
	b := a.As16()
	return addr{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

func (a addr) netip() netip.Addr {
	if a.family() == v4 {
		return netip.AddrFrom4([4]byte{byte(a.lo >> 24), byte(a.lo >> 16), byte(a.lo >> 8), byte(a.lo)})
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// A family is an index: there are two of everything.
type family uint8

const (
	v4 family = iota
	v6
)

func index(f lb.Family) family {
	if f == lb.IPv4 {
		return v4
	}
	return v6
}

func (a addr) family() family {
	if a.hi == 0 && a.lo>>32 == 0xffff {
		return v4
	}
	return v6
}

func (a addr) less(b addr) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

func (a addr) compare(b addr) int {
	switch {
	case a.less(b):
		return -1
	case a == b:
		return 0
	default:
		return 1
	}
}

// next wraps from the last address to the first.
func (a addr) next() addr { return a.plus(1) }

func (a addr) plus(n uint64) addr {
	lo, carry := bits.Add64(a.lo, n, 0)
	return addr{a.hi + carry, lo}
}

func (a addr) prev() addr {
	lo, borrow := bits.Sub64(a.lo, 1, 0)
	return addr{a.hi - borrow, lo}
}

// buggy reports an IPv4 address that old equipment takes for a network's or a
// broadcast address.
func (a addr) buggy() bool {
	return a.family() == v4 && (a.lo&0xff == 0 || a.lo&0xff == 0xff)
}

// A span is an inclusive range.
type span struct{ lo, hi addr }

func (s span) contains(a addr) bool { return !a.less(s.lo) && !s.hi.less(a) }

// size saturates.
func (s span) size() uint64 {
	lo, borrow := bits.Sub64(s.hi.lo, s.lo.lo, 0)
	hi, _ := bits.Sub64(s.hi.hi, s.lo.hi, borrow)
	if hi > 0 || lo == math.MaxUint64 {
		return math.MaxUint64
	}
	return lo + 1
}

// buggies counts the buggy addresses of an IPv4 span.
func (s span) buggies() uint64 {
	upTo := func(a uint64) uint64 { return (a+256)>>8 + (a+1)>>8 } // ending in .0 and .255, counted from 0 to a
	first, last := s.lo.lo&0xffff_ffff, s.hi.lo&0xffff_ffff
	if first == 0 {
		return upTo(last)
	}
	return upTo(last) - upTo(first-1)
}

// without returns what is left of s when cut is taken out.
func (s span) without(cut span) []span {
	if cut.hi.less(s.lo) || s.hi.less(cut.lo) {
		return []span{s}
	}
	var left []span
	if s.lo.less(cut.lo) {
		left = append(left, span{s.lo, cut.lo.prev()})
	}
	if cut.hi.less(s.hi) {
		left = append(left, span{cut.hi.next(), s.hi})
	}
	return left
}

// A spanSet is a set of addresses as sorted, disjoint spans that do not touch.
// They lie in blocks of bounded length, so that a change moves little memory
// however fragmented the set is.
type spanSet struct{ blocks [][]span }

const blockSpans = 128

func newSpanSet(spans []span) spanSet {
	var s spanSet
	for chunk := range slices.Chunk(spans, blockSpans/2) {
		s.blocks = append(s.blocks, slices.Clone(chunk))
	}
	return s
}

func (s *spanSet) empty() bool { return len(s.blocks) == 0 }

// find returns the last span that starts at or before a; i is -1 when none
// does.
func (s *spanSet) find(a addr) (b, i int) {
	b = sort.Search(len(s.blocks), func(b int) bool { return a.less(s.blocks[b][0].lo) }) - 1
	if b < 0 {
		return 0, -1
	}
	block := s.blocks[b]
	return b, sort.Search(len(block), func(i int) bool { return a.less(block[i].lo) }) - 1
}

func (s *spanSet) contains(a addr) bool {
	b, i := s.find(a)
	return i >= 0 && s.blocks[b][i].contains(a)
}

// from returns the lowest address of the set that is not below a.
func (s *spanSet) from(a addr) (addr, bool) {
	if s.empty() {
		return addr{}, false
	}
	b, i := s.find(a)
	if i >= 0 && s.blocks[b][i].contains(a) {
		return a, true
	}
	if i++; i == len(s.blocks[b]) {
		b, i = b+1, 0
	}
	if b == len(s.blocks) {
		return addr{}, false
	}
	return s.blocks[b][i].lo, true
}

// remove takes a out of the set and reports whether it was in.
func (s *spanSet) remove(a addr) bool {
	b, i := s.find(a)
	if i < 0 || !s.blocks[b][i].contains(a) {
		return false
	}
	switch at := &s.blocks[b][i]; {
	case at.lo == at.hi:
		s.delete(b, i)
	case at.lo == a:
		at.lo = a.next()
	case at.hi == a:
		at.hi = a.prev()
	default:
		rest := span{a.next(), at.hi}
		at.hi = a.prev()
		s.insert(b, i+1, rest)
	}
	return true
}

// add puts a, which is not in, into the set.
func (s *spanSet) add(a addr) {
	b, i := s.find(a)
	touchesLeft := i >= 0 && s.blocks[b][i].hi.next() == a
	rb, ri := b, i+1
	if !s.empty() && ri == len(s.blocks[rb]) {
		rb, ri = rb+1, 0
	}
	touchesRight := rb < len(s.blocks) && s.blocks[rb][ri].lo == a.next()
	switch {
	case touchesLeft && touchesRight:
		s.blocks[b][i].hi = s.blocks[rb][ri].hi
		s.delete(rb, ri)
	case touchesLeft:
		s.blocks[b][i].hi = a
	case touchesRight:
		s.blocks[rb][ri].lo = a
	default:
		s.insert(b, i+1, span{a, a})
	}
}

func (s *spanSet) insert(b, i int, x span) {
	if s.empty() {
		s.blocks = [][]span{{x}}
		return
	}
	if len(s.blocks[b]) == blockSpans {
		half := slices.Clone(s.blocks[b][blockSpans/2:])
		s.blocks[b] = s.blocks[b][:blockSpans/2]
		s.blocks = slices.Insert(s.blocks, b+1, half)
		if i > blockSpans/2 {
			b, i = b+1, i-blockSpans/2
		}
	}
	s.blocks[b] = slices.Insert(s.blocks[b], i, x)
}

func (s *spanSet) delete(b, i int) {
	if s.blocks[b] = slices.Delete(s.blocks[b], i, i+1); len(s.blocks[b]) == 0 {
		s.blocks = slices.Delete(s.blocks, b, b+1)
	}
}
