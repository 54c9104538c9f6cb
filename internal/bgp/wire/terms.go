package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Terms are what two OPENs agree on, as far as it decides what an UPDATE of ours
// may say and how it is spelled.
//
// What was not agreed on must not leave: a router may reset the session for a
// family that it did not offer, and for an IPv4 route with an IPv6 next hop that it
// did not say it understands. Messages longer than [MaxLen] (RFC 8654) and several
// paths per prefix (RFC 7911) are never offered, so they never leave either.
type Terms struct {
	// IPv4 and IPv6 are the unicast families that both sides carry (RFC 4760).
	IPv4, IPv6 bool
	// ExtendedNextHop is IPv4 with an IPv6 next hop (RFC 8950).
	ExtendedNextHop bool
	// FourOctetAS is AS numbers of four octets in AS_PATH (RFC 6793). Without it
	// AS_PATH has two, and AS4_PATH tells what does not fit.
	FourOctetAS bool
	// Internal is a session within one AS, which alone has LOCAL_PREF (RFC 4271
	// section 5.1.5).
	Internal bool
	// OnlyToCustomers is the AS that our routes are marked with, so that their
	// receiver leaks them to its customers alone; 0 for none (RFC 9234).
	OnlyToCustomers uint32
}

// Carries reports whether a family is part of the session.
func (t Terms) Carries(f Family) bool {
	return f == IPv4Unicast && t.IPv4 || f == IPv6Unicast && t.IPv6
}

// A Told is what a router was told of a prefix.
type Told uint8

// What a router can be told of a prefix.
const (
	// Announced: the router has the route.
	Announced Told = iota
	// Withdrawn: it has been told to forget the prefix.
	Withdrawn
	// Unsayable: the terms have no words for the route, so it was left out. What
	// the router was told of the prefix before is not so any more.
	Unsayable
)

// AppendUpdate appends what the terms let be said of an UPDATE, as whole messages,
// and calls each for its prefixes. The UPDATE is one of ours, with AS numbers of
// four octets. What belongs to a family that the session does not carry is left
// out, and each is not called for it; what the rest says is said.
//
// Every message that is written is of the strictest form: withdrawn routes, routes
// of the first RFC and those of MP_REACH_NLRI and MP_UNREACH_NLRI each have one of
// their own, and what holds prefixes comes first (RFC 7606 section 5.1); there is a
// NEXT_HOP where it has a meaning and nowhere else (RFC 4760 section 3); flags are
// those of the RFCs; and only attributes that a route of ours can have are passed
// on.
func (t Terms) AppendUpdate(b, body []byte, each func(netip.Prefix, Told)) ([]byte, error) {
	withdrawn, rest, ok := block(body)
	if !ok {
		return b, updateError(1, "the withdrawn routes are cut short")
	}
	attributes, reachable, ok := block(rest)
	if !ok {
		return b, updateError(1, "the path attributes are cut short")
	}
	attrs, err := parseAttributes(attributes)
	if err == nil {
		err = t.spell(attrs)
	}
	if err != nil {
		return b, err
	}
	if t.IPv4 {
		if b, err = appendWithdrawn(b, withdrawn, each); err != nil {
			return b, err
		}
	}
	if v, ok := attrs.get(attrMPUnreach); ok {
		if len(v) < 3 {
			return b, updateError(9, "MP_UNREACH_NLRI is cut short")
		}
		f := Family{AFI: binary.BigEndian.Uint16(v), SAFI: v[2]}
		switch {
		case t.Carries(f) && f == IPv4Unicast:
			b, err = appendWithdrawn(b, v[3:], each)
		case t.Carries(f):
			b, err = appendUnreach(b, v[3:], each)
		}
		if err != nil {
			return b, err
		}
	}
	if v, ok := attrs.get(attrMPReach); ok {
		if len(v) < 5 || len(v) < 5+int(v[3]) {
			return b, updateError(9, "MP_REACH_NLRI is cut short")
		}
		f, hop, nlri := Family{AFI: binary.BigEndian.Uint16(v), SAFI: v[2]}, v[4:4+int(v[3])], v[5+int(v[3]):]
		if t.Carries(f) {
			if b, err = t.appendRoutes(b, attrs, f.AFI, hop, nlri, each); err != nil {
				return b, err
			}
		}
	}
	if len(reachable) > 0 && t.IPv4 {
		hop, _ := attrs.get(attrNextHop)
		if b, err = t.appendRoutes(b, attrs, afiIPv4, hop, reachable, each); err != nil {
			return b, err
		}
	}
	return b, nil
}

// AppendWithdrawals appends the UPDATEs that withdraw prefixes. They belong to
// families that the session carries.
func (t Terms) AppendWithdrawals(b []byte, prefixes []netip.Prefix) []byte {
	var v4, v6 []byte
	for _, p := range prefixes {
		octets := p.Addr().AsSlice()[:(p.Bits()+7)/8]
		if p.Addr().Is4() {
			v4 = append(append(v4, byte(p.Bits())), octets...)
		} else {
			v6 = append(append(v6, byte(p.Bits())), octets...)
		}
	}
	ignore := func(netip.Prefix, Told) {}
	b, _ = appendWithdrawn(b, v4, ignore)
	b, _ = appendUnreach(b, v6, ignore)
	return b
}

// Path attribute types beside those that hold prefixes (RFC 4271, RFC 1997,
// RFC 4360, RFC 6793, RFC 8092).
const (
	attrOrigin              = 1
	attrASPath              = 2
	attrNextHop             = 3
	attrMED                 = 4
	attrLocalPref           = 5
	attrCommunities         = 8
	attrExtendedCommunities = 16
	attrAS4Path             = 17
	attrLargeCommunities    = 32
	attrOnlyToCustomers     = 35

	flagTransitive = 0x40
)

// ourAttributes are the attributes that describe a route of ours, with their flags,
// in the order in which they are sent.
var ourAttributes = []struct{ code, flags byte }{
	{attrOrigin, flagTransitive},
	{attrASPath, flagTransitive},
	{attrNextHop, flagTransitive},
	{attrMED, flagOptional},
	{attrLocalPref, flagTransitive},
	{attrCommunities, flagOptional | flagTransitive},
	{attrExtendedCommunities, flagOptional | flagTransitive},
	{attrAS4Path, flagOptional | flagTransitive},
	{attrLargeCommunities, flagOptional | flagTransitive},
	{attrOnlyToCustomers, flagOptional | flagTransitive},
}

// attributeSet are the values of attributes, by type.
type attributeSet [attrOnlyToCustomers + 1][]byte

// get returns an attribute's value, and whether it is there.
func (a *attributeSet) get(code byte) ([]byte, bool) { return a[code], a[code] != nil }

// parseAttributes splits path attributes. Those of no use here are left out.
func parseAttributes(b []byte) (*attributeSet, error) {
	var a attributeSet
	for len(b) > 0 {
		_, code, value, rest, err := attribute(b)
		if err != nil {
			return nil, err
		}
		if b = rest; int(code) < len(a) {
			a[code] = value
		}
	}
	return &a, nil
}

// attribute splits the first path attribute off b. Its value is never nil.
func attribute(b []byte) (flags, code byte, value, rest []byte, err error) {
	if len(b) < 3 {
		return 0, 0, nil, nil, updateError(1, "a path attribute is cut short")
	}
	n, head := int(b[2]), 3
	if b[0]&flagExtended != 0 {
		if len(b) < 4 {
			return 0, 0, nil, nil, updateError(1, "a path attribute is cut short")
		}
		n, head = int(binary.BigEndian.Uint16(b[2:])), 4
	}
	if n > len(b)-head {
		return 0, 0, nil, nil, updateError(5, "a path attribute is longer than the message")
	}
	return b[0], b[1], b[head : head+n], b[head+n:], nil
}

// appendAttribute appends a path attribute.
func appendAttribute(b []byte, flags, code byte, value []byte) []byte {
	if len(value) > 255 {
		b = append(b, flags|flagExtended, code)
		b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	} else {
		b = append(b, flags, code, byte(len(value)))
	}
	return append(b, value...)
}

// appendRoutes appends routes of a family with one next hop.
func (t Terms) appendRoutes(b []byte, attrs *attributeSet, afi uint16, hop, nlri []byte, each func(netip.Prefix, Told)) ([]byte, error) {
	classic := afi == afiIPv4 && len(hop) == 4
	var sayable bool
	if afi == afiIPv4 {
		sayable = classic || t.ExtendedNextHop && (len(hop) == 16 || len(hop) == 32)
	} else {
		sayable = len(hop) == 16 || len(hop) == 32
	}
	if !sayable {
		return b, told(nlri, afi, Unsayable, each)
	}
	var nextHop []byte
	if classic {
		nextHop = hop
	}
	common, err := appendAttributes(nil, attrs, nextHop)
	if err != nil {
		return b, err
	}
	for len(nlri) > 0 {
		// Both lengths of an UPDATE, the attributes, and the head of MP_REACH_NLRI:
		// flags, type, two octets of length, family, next hop, a reserved octet.
		room := MaxLen - HeaderLen - 4 - len(common)
		if !classic {
			room -= 4 + 3 + 1 + len(hop) + 1
		}
		some, rest, err := cut(nlri, afi, room)
		if err != nil {
			return b, err
		}
		if len(some) == 0 { // the attributes alone fill a message
			return b, told(nlri, afi, Unsayable, each)
		}
		b = appendMessage(b, TypeUpdate, func(b []byte) []byte {
			b = append(b, 0, 0)
			if classic {
				b = binary.BigEndian.AppendUint16(b, uint16(len(common)))
				return append(append(b, common...), some...)
			}
			mp := append(binary.BigEndian.AppendUint16(nil, afi), safiUnicast, byte(len(hop)))
			mp = append(append(append(mp, hop...), 0), some...)
			at := len(b)
			b = append(appendAttribute(append(b, 0, 0), flagOptional, attrMPReach, mp), common...)
			binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
			return b
		})
		if err := told(some, afi, Announced, each); err != nil {
			return b, err
		}
		nlri = rest
	}
	return b, nil
}

// spell brings the attributes of a route into the form of the terms.
func (t Terms) spell(attrs *attributeSet) error {
	attrs[attrAS4Path] = nil
	if path, ok := attrs.get(attrASPath); ok && !t.FourOctetAS {
		two, wide, err := narrow(path)
		if err != nil {
			return err
		}
		attrs[attrASPath] = two
		if wide {
			attrs[attrAS4Path] = path
		}
	}
	if !t.Internal {
		attrs[attrLocalPref] = nil
	}
	attrs[attrOnlyToCustomers] = nil
	if t.OnlyToCustomers != 0 {
		attrs[attrOnlyToCustomers] = binary.BigEndian.AppendUint32(nil, t.OnlyToCustomers)
	}
	return nil
}

// narrow rewrites an AS_PATH of four octets per AS with two, and reports whether it
// has an AS that they cannot hold, for which AS_TRANS stands (RFC 6793 section 4.2.2).
func narrow(path []byte) (two []byte, wide bool, err error) {
	two = make([]byte, 0, len(path))
	for len(path) > 0 {
		if len(path) < 2 || len(path) < 2+4*int(path[1]) {
			return nil, false, updateError(11, "AS_PATH is cut short")
		}
		n := int(path[1])
		two = append(two, path[:2]...)
		for as := path[2 : 2+4*n]; len(as) > 0; as = as[4:] {
			number := binary.BigEndian.Uint32(as)
			if number > 0xffff {
				number, wide = asTrans, true
			}
			two = binary.BigEndian.AppendUint16(two, uint16(number))
		}
		path = path[2+4*n:]
	}
	return two, wide, nil
}

// appendAttributes appends what a route says beside its prefix and the next hop of
// MP_REACH_NLRI. Hop is the NEXT_HOP, if it has one.
func appendAttributes(b []byte, attrs *attributeSet, hop []byte) ([]byte, error) {
	for _, a := range ourAttributes {
		v, ok := attrs.get(a.code)
		switch a.code {
		case attrOrigin, attrASPath:
			if !ok {
				return b, updateError(3, fmt.Sprintf("attribute %d is missing", a.code))
			}
		case attrNextHop:
			v, ok = hop, hop != nil
		}
		if ok {
			b = appendAttribute(b, a.flags, a.code, v)
		}
	}
	return b, nil
}

// appendWithdrawn appends the UPDATEs that withdraw IPv4 prefixes.
func appendWithdrawn(b, nlri []byte, each func(netip.Prefix, Told)) ([]byte, error) {
	for len(nlri) > 0 {
		some, rest, err := cut(nlri, afiIPv4, MaxLen-HeaderLen-4)
		if err != nil {
			return b, err
		}
		b = appendMessage(b, TypeUpdate, func(b []byte) []byte {
			b = binary.BigEndian.AppendUint16(b, uint16(len(some)))
			return append(append(b, some...), 0, 0)
		})
		if err := told(some, afiIPv4, Withdrawn, each); err != nil {
			return b, err
		}
		nlri = rest
	}
	return b, nil
}

// appendUnreach appends the UPDATEs that withdraw IPv6 prefixes.
func appendUnreach(b, nlri []byte, each func(netip.Prefix, Told)) ([]byte, error) {
	for len(nlri) > 0 {
		some, rest, err := cut(nlri, afiIPv6, MaxLen-HeaderLen-4-4-3)
		if err != nil {
			return b, err
		}
		b = appendMessage(b, TypeUpdate, func(b []byte) []byte {
			value := append([]byte{0, afiIPv6, safiUnicast}, some...)
			attr := appendAttribute(nil, flagOptional, attrMPUnreach, value)
			b = binary.BigEndian.AppendUint16(append(b, 0, 0), uint16(len(attr)))
			return append(b, attr...)
		})
		if err := told(some, afiIPv6, Withdrawn, each); err != nil {
			return b, err
		}
		nlri = rest
	}
	return b, nil
}

// cut splits prefixes after as many as fit room.
func cut(nlri []byte, afi uint16, room int) (some, rest []byte, err error) {
	n := 0
	for n < len(nlri) {
		size := 1 + (int(nlri[n])+7)/8
		if int(nlri[n]) > bitsOf(afi) || size > len(nlri)-n {
			return nil, nil, updateError(10, "a prefix is malformed")
		}
		if n+size > room {
			break
		}
		n += size
	}
	return nlri[:n], nlri[n:], nil
}

// bitsOf returns the length of a family's addresses.
func bitsOf(afi uint16) int {
	if afi == afiIPv4 {
		return 32
	}
	return 128
}

// told calls each for prefixes.
func told(nlri []byte, afi uint16, as Told, each func(netip.Prefix, Told)) error {
	if !prefixes(nlri, afi, as == Withdrawn, func(c Change) { each(c.Prefix, as) }) {
		return updateError(10, "a prefix is malformed")
	}
	return nil
}
