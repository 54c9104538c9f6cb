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

// The filters keep the rest of the segment from waking us. They let in
//
//   - what asks for an address in a few ranges that cover everything claimed;
//   - what is sent from, announces or probes for an address in a few ranges that
//     cover everything claimed or watched.
//
// So nodes that only watch an address sleep while another is asked for it. Which
// addresses of a range are really meant is the table's business: filters need
// not be exact, must never be too narrow, and stay small however many addresses
// there are.
//
// They also refuse what was not sent to this interface: our own frames coming
// back, frames for other stations seen in promiscuous mode, and frames of a
// VLAN that has no interface here, which the kernel marks as the latter.

// most bounds the ranges and prefixes of one filter: 4096 instructions is the
// kernel's limit, and each frame of the segment pays for every one passed
// (docs/design/answering.md).
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

// A scope is what a filter lets in, of one family.
type scope struct {
	// claimed covers what we answer for, heard whose use by others we hear of:
	// what is claimed or watched.
	claimed, heard []lb.AddressRange
}

func scopeOf(family lb.Family, watched []lb.AddressRange, claims []layer2.Claim) scope {
	var s scope
	for _, r := range watched {
		if lb.FamilyOf(r.First) == family {
			s.heard = append(s.heard, r)
		}
	}
	for _, c := range claims {
		if lb.FamilyOf(c.Address) != family {
			continue
		}
		r := lb.AddressRange{First: c.Address, Last: c.Address}
		s.claimed = append(s.claimed, r)
		if !layer2.Watched(watched, c.Address) {
			s.heard = append(s.heard, r)
		}
	}
	return scope{merge(s.claimed), merge(s.heard)}
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

// filterARP lets in the ARP packets of a scope. Sender 0.0.0.0 is a probe (RFC
// 5227 section 2.1.1).
func filterARP(s scope) []bpf.Instruction {
	const sender, target = etherLen + 14, etherLen + 24
	refuse := bpf.RetConstant{Val: 0}
	heard := widen(s.heard)
	program := preamble()
	program = append(program, inRanges(target, widen(s.claimed))...)
	program = append(program, inRanges(sender, heard)...)
	program = append(
		program,
		bpf.LoadAbsolute{Off: sender, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, refuse,
	)
	program = append(program, inRanges(target, heard)...)
	return append(program, refuse)
}

// inRanges accepts when the IPv4 address at the offset lies in one of the
// ranges, and goes on behind itself when it does not.
func inRanges(offset uint32, ranges []lb.AddressRange) []bpf.Instruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offset, Size: 4}}
	for _, r := range ranges {
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: number(r.First), SkipFalse: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: number(r.Last), SkipTrue: 1},
			bpf.RetConstant{Val: accept})
	}
	return program
}

// filterNDP lets in the Neighbor Solicitations and Advertisements of a scope
// with hop limit 255. A solicitation from :: detects a duplicate (RFC 4862
// section 5.4.2), and an advertisement speaks of its target.
func filterNDP(s scope) []bpf.Instruction {
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
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: neighborHops, SkipTrue: 1}, refuse,
		bpf.LoadAbsolute{Off: kind, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeSolicitation, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeAdvertising, SkipTrue: 1}, refuse,
	)
	heard := cover(s.heard)
	program = append(program, inPrefixes(target, cover(s.claimed))...)
	program = append(program, inPrefixes(source, heard)...)
	program = append(
		program,
		bpf.LoadAbsolute{Off: kind, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeAdvertising, SkipTrue: 12},
	)
	for word := uint32(0); word < 4; word++ {
		program = append(program,
			bpf.LoadAbsolute{Off: source + 4*word, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, refuse)
	}
	program = append(program, inPrefixes(target, heard)...)
	return append(program, refuse)
}

// inPrefixes accepts when the IPv6 address at the offset lies in one of the
// prefixes, and goes on behind itself when it does not.
func inPrefixes(offset uint32, prefixes []netip.Prefix) []bpf.Instruction {
	var program []bpf.Instruction
	for _, p := range prefixes {
		program = append(program, inPrefix(offset, p)...)
	}
	return program
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
// each, and where these are too many, the closest neighbors joined.
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
