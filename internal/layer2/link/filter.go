package link

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// The filters keep the rest of the segment from waking us. They let in what
// asks for, or is sent from, an address in a few ranges that cover everything
// claimed or watched; which of those addresses are really meant is the table's
// business. So they need not be exact, must never be too narrow, and stay small
// however many addresses there are.
//
// They also refuse what was not sent to this interface: our own frames coming
// back, frames for other stations seen in promiscuous mode, and frames of a
// VLAN that has no interface here, which the kernel marks as the latter.

// most bounds the ranges and prefixes of one filter: 4096 instructions is the
// kernel's limit, and each frame of the segment pays for every one passed.
const most = 32

// merge returns the same addresses as sorted, disjoint ranges that are not
// adjacent.
func merge(ranges []lb.AddressRange) []lb.AddressRange {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b lb.AddressRange) int { return a.First.Compare(b.First) })
	out := sorted[:0]
	for _, r := range sorted {
		if n := len(out); n > 0 && lb.FamilyOf(out[n-1].Last) == lb.FamilyOf(r.First) &&
			(r.First.Compare(out[n-1].Last) <= 0 || r.First == out[n-1].Last.Next()) {
			if r.Last.Compare(out[n-1].Last) > 0 {
				out[n-1].Last = r.Last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// interesting returns the ranges of a family that cover what is watched and
// what is claimed.
func interesting(family lb.Family, watched []lb.AddressRange, claims []layer2.Claim) []lb.AddressRange {
	var ranges []lb.AddressRange
	for _, r := range watched {
		if lb.FamilyOf(r.First) == family {
			ranges = append(ranges, r)
		}
	}
	for _, c := range claims {
		if lb.FamilyOf(c.Address) == family && !layer2.Watched(watched, c.Address) {
			ranges = append(ranges, lb.AddressRange{First: c.Address, Last: c.Address})
		}
	}
	return merge(ranges)
}

// accept is more than any frame's length: take all of it.
const accept = 1 << 18

// preamble refuses what was not sent to this interface; packet types are those
// of packet(7): 0 host, 1 broadcast, 2 multicast, and from 3 on what is not for
// us.
func preamble() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: 2, SkipFalse: 1},
		bpf.RetConstant{Val: 0},
	}
}

// filterARP lets in ARP packets whose target or sender lies in the ranges.
func filterARP(ranges []lb.AddressRange) []bpf.Instruction {
	const sender, target = etherLen + 14, etherLen + 24
	ranges = widen(ranges)
	program := preamble()
	for _, offset := range []uint32{target, sender} {
		program = append(program, bpf.LoadAbsolute{Off: offset, Size: 4})
		for _, r := range ranges {
			program = append(program,
				bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: number(r.First), SkipFalse: 2},
				bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: number(r.Last), SkipTrue: 1},
				bpf.RetConstant{Val: accept})
		}
	}
	return append(program, bpf.RetConstant{Val: 0})
}

// filterNDP lets in Neighbor Solicitations and Advertisements with hop limit
// 255 whose target or source lies in the ranges.
func filterNDP(ranges []lb.AddressRange) []bpf.Instruction {
	const (
		next, hops, source = etherLen + 6, etherLen + 7, etherLen + 8
		kind, target       = etherLen + ipv6Len, etherLen + ipv6Len + 8
	)
	refuse := bpf.RetConstant{Val: 0}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: next, Size: 1}, // first: this is all that other IPv6 traffic costs
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protocolICMPv6, SkipTrue: 1}, refuse,
	}
	program = append(program, preamble()...)
	program = append(
		program,
		bpf.LoadAbsolute{Off: hops, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: neighbourHops, SkipTrue: 1}, refuse,
		bpf.LoadAbsolute{Off: kind, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeSolicitation, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeAdvertising, SkipTrue: 1}, refuse,
	)
	prefixes := cover(ranges)
	for _, offset := range []uint32{target, source} {
		for _, p := range prefixes {
			program = append(program, inPrefix(offset, p)...)
		}
	}
	return append(program, refuse)
}

// inPrefix accepts when the address at the offset lies in the prefix, and goes
// on behind itself when it does not.
func inPrefix(offset uint32, p netip.Prefix) []bpf.Instruction {
	var program []bpf.Instruction
	address := p.Addr().As16()
	for word := 0; word*32 < p.Bits(); word++ {
		mask := ^uint32(0)
		if rest := p.Bits() - word*32; rest < 32 {
			mask <<= 32 - rest
		}
		value := uint32(address[4*word])<<24 | uint32(address[4*word+1])<<16 | uint32(address[4*word+2])<<8 | uint32(address[4*word+3])
		program = append(program, bpf.LoadAbsolute{Off: offset + uint32(4*word), Size: 4})
		if mask != ^uint32(0) {
			program = append(program, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value & mask})
	}
	for i, instruction := range program {
		if j, ok := instruction.(bpf.JumpIf); ok {
			j.SkipFalse = uint8(len(program) - i)
			program[i] = j
		}
	}
	return append(program, bpf.RetConstant{Val: accept})
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// widen closes the smallest gaps between IPv4 ranges until few enough are left.
func widen(ranges []lb.AddressRange) []lb.AddressRange {
	if len(ranges) <= most {
		return ranges
	}
	gap := func(i int) uint32 { return number(ranges[i].First) - number(ranges[i-1].Last) }
	cuts := make([]int, 0, len(ranges)-1) // where a new range begins
	for i := 1; i < len(ranges); i++ {
		cuts = append(cuts, i)
	}
	slices.SortFunc(cuts, func(i, j int) int { return cmp.Compare(gap(j), gap(i)) })
	cuts = cuts[:most-1]
	slices.Sort(cuts)
	out := make([]lb.AddressRange, 0, most)
	begin := 0
	for _, end := range append(cuts, len(ranges)) {
		out = append(out, lb.AddressRange{First: ranges[begin].First, Last: ranges[end-1].Last})
		begin = end
	}
	return out
}

// cover returns few prefixes that contain all IPv6 ranges: the smallest around
// each, and where these are too many, the closest neighbours joined.
func cover(ranges []lb.AddressRange) []netip.Prefix {
	var prefixes []netip.Prefix
	add := func(p netip.Prefix) {
		if n := len(prefixes); n == 0 || !prefixes[n-1].Overlaps(p) {
			prefixes = append(prefixes, p)
		} else if p.Bits() < prefixes[n-1].Bits() {
			prefixes[n-1] = p
		}
	}
	for _, r := range ranges {
		add(around(r.First, r.Last))
	}
	for length := 128; len(prefixes) > most; length-- {
		finer := prefixes
		prefixes = nil
		for _, p := range finer {
			if p.Bits() > length {
				p, _ = p.Addr().Prefix(length)
			}
			add(p)
		}
	}
	return prefixes
}

// around returns the smallest prefix that contains both addresses.
func around(a, b netip.Addr) netip.Prefix {
	x, y := a.As16(), b.As16()
	common := 0
	for i := range x {
		same := bits.LeadingZeros8(x[i] ^ y[i])
		common += same
		if same < 8 {
			break
		}
	}
	return netip.PrefixFrom(a, common).Masked()
}
