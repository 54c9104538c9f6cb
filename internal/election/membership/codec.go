package membership

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// Limits of a record. A node has a few interfaces and at most some thousand
// addresses; whatever exceeds this is not ours (docs/design/bounds.md).
const (
	version       = 1
	maxNode       = 253 // A node's name is a DNS name.
	maxInterfaces = 256
	maxManagement = 4  // Of them.
	maxIfName     = 15 // IFNAMSIZ less its terminator.
	maxPrefixes   = 256
	maxSessions   = 64 // Of four bytes each, so that they fit into a packet.
	maxClaims     = 1 << 16
	maxGroups     = maxClaims
	// maxRecord bounds the encoding of one record in a node's state.
	maxRecord = 4 << 20
)

const (
	flagJoining = 1 << iota
	flagLeaving
	flagWhole
	flagSessions
	flagsKnown = flagJoining | flagLeaving | flagWhole | flagSessions
)

// encode returns the record in wire form:
//
//	version kind flags  one byte each
//	node                length, text
//	address             family (4 or 6), bytes
//	boot seq epoch      numbers
//	interfaces          count, each: index, name, 6 bytes, prefixes; the management
//	                    interfaces last, with index 0
//	sessions            if flagged: count, 4 bytes each
//	claims              count of groups, each: quorum, epoch, ranges
//
// Numbers are unsigned varints. Addresses claimed together make a group, and
// neighboring ones a range, as (gap, length) from the end of the previous
// range; IPv6 ranges are listed below their upper 64 bits.
func encode(r *election.Record, k election.Kind) []byte {
	var b []byte
	var flags byte
	if r.Joining {
		flags |= flagJoining
	}
	if r.Leaving {
		flags |= flagLeaving
	}
	if r.Whole {
		flags |= flagWhole
	}
	if len(r.Sessions) > 0 {
		flags |= flagSessions
	}
	b = append(b, version, byte(k), flags)
	b = appendText(b, r.Node)
	b = appendAddr(b, r.Address)
	b = binary.AppendUvarint(b, r.Boot)
	b = binary.AppendUvarint(b, r.Seq)
	b = binary.AppendUvarint(b, r.Epoch)
	b = binary.AppendUvarint(b, uint64(len(r.Interfaces)+len(r.Management)))
	for n, i := range slices.Concat(r.Interfaces, r.Management) {
		if n >= len(r.Interfaces) {
			i.Index = 0 // what it is there does not matter to others
		}
		b = binary.AppendUvarint(b, uint64(i.Index))
		b = appendText(b, i.Name)
		b = append(b, i.MAC[:]...)
		b = binary.AppendUvarint(b, uint64(len(i.Addresses)))
		for _, p := range i.Addresses {
			b = appendAddr(b, p.Addr())
			b = append(b, byte(p.Bits()))
		}
	}
	if len(r.Sessions) > 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Sessions)))
		for _, c := range r.Sessions {
			b = binary.BigEndian.AppendUint32(b, uint32(c))
		}
	}
	if !r.Whole {
		return b
	}
	groups := map[election.Claim][]netip.Addr{}
	for a, c := range r.Claims {
		groups[c] = append(groups[c], a)
	}
	b = binary.AppendUvarint(b, uint64(len(groups)))
	for c, addrs := range groups {
		b = append(b, byte(c.Quorum))
		b = binary.AppendUvarint(b, c.Epoch)
		b = appendSet(b, addrs)
	}
	return b
}

// encodeBrief returns the record without its claims.
func encodeBrief(r *election.Record, k election.Kind) []byte {
	brief := *r
	brief.Claims, brief.Whole = nil, false
	return encode(&brief, k)
}

// as returns a copy of an encoded record, of another kind.
func as(b []byte, k election.Kind) []byte {
	b = slices.Clone(b)
	b[1] = byte(k)
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	return append(append(b, byte(lb.FamilyOf(a))), a.AsSlice()...)
}

// A stem is what the addresses of a list have in common: the family, and the
// upper half of an IPv6 address.
type stem struct {
	family lb.Family
	upper  uint64
}

func split(a netip.Addr) (stem, uint64) {
	if a.Is4() {
		v := a.As4()
		return stem{family: lb.IPv4}, uint64(binary.BigEndian.Uint32(v[:]))
	}
	v := a.As16()
	return stem{lb.IPv6, binary.BigEndian.Uint64(v[:8])}, binary.BigEndian.Uint64(v[8:])
}

func (s stem) join(lower uint64) netip.Addr {
	if s.family == lb.IPv4 {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(lower))))
	}
	var v [16]byte
	binary.BigEndian.PutUint64(v[:8], s.upper)
	binary.BigEndian.PutUint64(v[8:], lower)
	return netip.AddrFrom16(v)
}

// top returns the greatest lower part under the stem.
func (s stem) top() uint64 {
	if s.family == lb.IPv4 {
		return math.MaxUint32
	}
	return math.MaxUint64
}

// appendSet appends a set of addresses: the number of stems, then each with its
// number of ranges and the ranges.
func appendSet(b []byte, addrs []netip.Addr) []byte {
	slices.SortFunc(addrs, netip.Addr.Compare)
	type span struct{ first, last uint64 }
	type list struct {
		stem  stem
		spans []span
	}
	var lists []list
	for _, a := range addrs {
		s, v := split(a)
		if n := len(lists); n == 0 || lists[n-1].stem != s {
			lists = append(lists, list{stem: s})
		}
		l := &lists[len(lists)-1]
		if n := len(l.spans); n > 0 && l.spans[n-1].last+1 == v {
			l.spans[n-1].last = v
		} else {
			l.spans = append(l.spans, span{v, v})
		}
	}
	b = binary.AppendUvarint(b, uint64(len(lists)))
	for _, l := range lists {
		b = append(b, byte(l.stem.family))
		if l.stem.family == lb.IPv6 {
			b = binary.BigEndian.AppendUint64(b, l.stem.upper)
		}
		b = binary.AppendUvarint(b, uint64(len(l.spans)))
		end := uint64(0)
		for _, s := range l.spans {
			b = binary.AppendUvarint(b, s.first-end)
			b = binary.AppendUvarint(b, s.last-s.first)
			end = s.last
		}
	}
	return b
}

var errMalformed = errors.New("malformed record")

// decode reads one record. It accepts exactly what encode can produce, in any
// order of groups.
func decode(b []byte) (*election.Record, election.Kind, error) {
	d := decoder{rest: b}
	r := &election.Record{}
	if v := d.byte(); d.ok() && v != version {
		return nil, 0, fmt.Errorf("record of version %d, this is %d", v, version)
	}
	k, flags := election.Kind(d.byte()), d.byte()
	d.want(k <= election.Doubt && flags&^byte(flagsKnown) == 0)
	r.Joining, r.Leaving, r.Whole = flags&flagJoining != 0, flags&flagLeaving != 0, flags&flagWhole != 0
	r.Node = d.text(maxNode)
	d.want(r.Node != "")
	r.Address = d.addr()
	r.Boot, r.Seq, r.Epoch = d.number(), d.number(), d.number()
	for range d.count(maxInterfaces) {
		i := lb.Interface{Index: int(d.upTo(math.MaxInt32)), Name: d.text(maxIfName), Up: true, Carrier: true}
		copy(i.MAC[:], d.bytes(len(i.MAC)))
		for range d.count(maxPrefixes) {
			a, bits := d.addr(), int(d.byte())
			p := netip.PrefixFrom(a, bits)
			d.want(p.IsValid())
			i.Addresses = append(i.Addresses, p)
		}
		if !d.ok() {
			break
		}
		if i.Index == 0 {
			r.Management = append(r.Management, i)
		} else {
			d.want(len(r.Management) == 0)
			r.Interfaces = append(r.Interfaces, i)
		}
	}
	if flags&flagSessions != 0 {
		n := d.count(maxSessions)
		d.want(n > 0)
		for i := range n {
			c := lb.SessionID(binary.BigEndian.Uint32(d.bytes(4)))
			d.want(i == 0 || d.fault || c > r.Sessions[i-1])
			if !d.ok() {
				break
			}
			r.Sessions = append(r.Sessions, c)
		}
	}
	if r.Whole {
		r.Claims = election.Claims{}
		for range d.count(maxGroups) {
			c := election.Claim{Quorum: election.Quorum(d.byte()), Epoch: d.number()}
			d.want(c.Quorum > election.NoClaim && c.Quorum <= election.Majority)
			d.set(r.Claims, c)
			if !d.ok() {
				break
			}
		}
	}
	d.want(len(d.rest) == 0)
	if !d.ok() {
		return nil, 0, errMalformed
	}
	return r, k, nil
}

// A decoder reads from rest; after the first fault it reads zeros.
type decoder struct {
	rest  []byte
	fault bool
}

func (d *decoder) ok() bool { return !d.fault }

func (d *decoder) want(b bool) {
	if !b {
		d.fault, d.rest = true, nil
	}
}

func (d *decoder) bytes(n int) []byte {
	d.want(n <= len(d.rest))
	if d.fault {
		return make([]byte, n)
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte { return d.bytes(1)[0] }

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.want(n > 0 && (n == 1 || d.rest[n-1] != 0)) // The shortest form only.
	if d.fault {
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) upTo(most uint64) uint64 {
	v := d.number()
	d.want(v <= most)
	if d.fault {
		return 0
	}
	return v
}

// count reads a number of items, each of which takes a byte at least.
func (d *decoder) count(most int) int {
	return int(d.upTo(uint64(min(most, len(d.rest)))))
}

func (d *decoder) text(most int) string { return string(d.bytes(d.count(most))) }

func (d *decoder) addr() netip.Addr {
	switch lb.Family(d.byte()) {
	case lb.IPv4:
		return netip.AddrFrom4([4]byte(d.bytes(4)))
	case lb.IPv6:
		a := netip.AddrFrom16([16]byte(d.bytes(16)))
		d.want(!a.Is4In6()) // An address has one form, so that it has one owner.
		return a
	default:
		d.want(false)
		return netip.Addr{}
	}
}

func (d *decoder) set(into election.Claims, c election.Claim) {
	for range d.count(maxClaims) {
		s := stem{family: lb.Family(d.byte())}
		d.want(s.family == lb.IPv4 || s.family == lb.IPv6)
		if s.family == lb.IPv6 {
			s.upper = binary.BigEndian.Uint64(d.bytes(8))
		}
		end := uint64(0)
		for i := range d.count(maxClaims) {
			gap, length := d.number(), d.upTo(maxClaims)
			d.want(i == 0 || gap > 1) // Adjacent ranges are one.
			d.want(gap <= s.top()-end && length <= s.top()-end-gap)
			d.want(uint64(len(into))+length < maxClaims)
			for v := range length + 1 {
				if d.fault {
					return
				}
				a := s.join(end + gap + v)
				_, twice := into[a]
				d.want(!twice && !a.Is4In6())
				into[a] = c
			}
			end += gap + length
		}
		if d.fault {
			return
		}
	}
}

// appendFramed appends an encoded record as one item of a node's state.
func appendFramed(b, encoded []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(encoded))), encoded...)
}

// unframe splits a node's state into encoded records.
func unframe(b []byte) ([][]byte, error) {
	d := decoder{rest: b}
	var items [][]byte
	for len(d.rest) > 0 {
		items = append(items, d.bytes(d.count(maxRecord)))
	}
	if !d.ok() {
		return nil, errMalformed
	}
	return items, nil
}
