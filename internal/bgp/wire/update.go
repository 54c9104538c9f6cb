package wire

import (
	"encoding/binary"
	"net/netip"
)

// Path attributes that hold prefixes (RFC 4760), and the flags of an attribute.
const (
	attrMPReach   = 14
	attrMPUnreach = 15

	flagOptional = 0x80
	flagExtended = 0x10
)

// A Change is one prefix of an UPDATE.
type Change struct {
	Prefix    netip.Prefix
	Withdrawn bool
}

// ParseUpdate calls each for the IPv4 and IPv6 unicast prefixes of an UPDATE's
// body, in the order in which they stand there, and returns the family whose end
// of RIB it marks, if it marks one.
//
// Path attributes other than the two that hold prefixes are skipped by their
// length and never looked into. After an error, what each was called for is to
// be kept: the count is an upper bound in any case.
func ParseUpdate(body []byte, each func(Change)) (endOfRIB *Family, err error) {
	withdrawn, rest, ok := block(body)
	if !ok {
		return nil, updateError(1, "the withdrawn routes are cut short")
	}
	attributes, reachable, ok := block(rest)
	if !ok {
		return nil, updateError(1, "the path attributes are cut short")
	}
	if len(withdrawn)+len(attributes)+len(reachable) == 0 {
		f := IPv4Unicast
		return &f, nil
	}
	if !prefixes(withdrawn, afiIPv4, true, each) {
		return nil, updateError(10, "a withdrawn prefix is malformed")
	}
	for a := attributes; len(a) > 0; {
		_, code, value, rest, err := attribute(a)
		if err != nil {
			return nil, err
		}
		whole := len(a) - len(rest)
		a = rest
		switch code {
		case attrMPUnreach:
			if len(value) < 3 {
				return nil, updateError(9, "MP_UNREACH_NLRI is cut short")
			}
			f := Family{AFI: binary.BigEndian.Uint16(value), SAFI: value[2]}
			if len(value) == 3 && len(attributes) == whole && len(withdrawn)+len(reachable) == 0 {
				return &f, nil
			}
			if f.SAFI == safiUnicast && !prefixes(value[3:], f.AFI, true, each) {
				return nil, updateError(9, "a prefix of MP_UNREACH_NLRI is malformed")
			}
		case attrMPReach:
			// AFI, SAFI, length of next hop, next hop, a reserved octet.
			if len(value) < 5 || len(value) < 5+int(value[3]) {
				return nil, updateError(9, "MP_REACH_NLRI is cut short")
			}
			f := Family{AFI: binary.BigEndian.Uint16(value), SAFI: value[2]}
			if f.SAFI == safiUnicast && !prefixes(value[5+int(value[3]):], f.AFI, false, each) {
				return nil, updateError(9, "a prefix of MP_REACH_NLRI is malformed")
			}
		}
	}
	if !prefixes(reachable, afiIPv4, false, each) {
		return nil, updateError(10, "a prefix is malformed")
	}
	return nil, nil
}

func updateError(subcode uint8, text string) error {
	return &Error{Code: CodeUpdate, Subcode: subcode, Text: "UPDATE: " + text}
}

// block splits b after the block whose length its first two octets say.
func block(b []byte) (block, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > len(b)-2 {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// prefixes calls each for the prefixes in b and reports whether they are well
// formed. Those of a family that is neither IPv4 nor IPv6 are not looked at.
func prefixes(b []byte, afi uint16, withdrawn bool, each func(Change)) bool {
	if afi != afiIPv4 && afi != afiIPv6 {
		return true
	}
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if n > len(b)-1 {
			return false
		}
		var a netip.Addr
		if afi == afiIPv4 {
			if bits > 32 {
				return false
			}
			var octets [4]byte
			copy(octets[:], b[1:1+n])
			a = netip.AddrFrom4(octets)
		} else {
			if bits > 128 {
				return false
			}
			var octets [16]byte
			copy(octets[:], b[1:1+n])
			a = netip.AddrFrom16(octets)
		}
		// Bits beyond the length are of no consequence (RFC 4271 section 4.3).
		each(Change{netip.PrefixFrom(a, bits).Masked(), withdrawn})
		b = b[1+n:]
	}
	return true
}
