package strict

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// An open is what an OPEN says.
type open struct {
	as   uint32
	hold uint16
	// multi are the families of the capability of RFC 4760.
	multi                                    []Family
	refresh, four, extendedNextHop, graceful bool
	role                                     role
}

// families are those of the session, of this side's will.
func (o open) families() []Family {
	if len(o.multi) == 0 {
		return []Family{IPv4}
	}
	return o.multi
}

// A role is a role of RFC 9234 plus one, 0 for none.
type role uint8

const (
	noRole role = iota
	provider
	rs
	rsClient
	customer
	peer
)

// marks reports whether routes to the other end get the attribute OTC (RFC 9234
// section 5).
func (r role) marks() bool { return r == provider || r == rs || r == peer }

// parseOpen parses the body of an OPEN.
func parseOpen(b []byte) (open, error) {
	var o open
	if len(b) < 10 {
		return o, errors.New("1/2: a short OPEN")
	}
	if b[0] != 4 {
		return o, errors.New("2/1: not version 4")
	}
	two := binary.BigEndian.Uint16(b[1:])
	o.as, o.hold = uint32(two), binary.BigEndian.Uint16(b[3:])
	if o.hold == 1 || o.hold == 2 {
		return o, errors.New("2/6: hold time")
	}
	if slices.Equal(b[5:9], []byte{0, 0, 0, 0}) {
		return o, errors.New("2/3: identifier 0")
	}
	total, head := int(b[9]), 2
	b = b[10:]
	if total != 0 && len(b) > 0 && b[0] == 255 {
		if len(b) < 3 {
			return o, errors.New("2/0: extended parameters are cut")
		}
		total, head, b = int(binary.BigEndian.Uint16(b[1:])), 3, b[3:]
	}
	if total != len(b) {
		return o, fmt.Errorf("2/0: %d octets of parameters, %d said", len(b), total)
	}
	seen := map[byte][]byte{}
	for len(b) > 0 {
		if len(b) < head {
			return o, errors.New("2/0: half a parameter")
		}
		n := int(b[1])
		if head == 3 {
			n = int(binary.BigEndian.Uint16(b[1:]))
		}
		if b[0] != 2 {
			return o, fmt.Errorf("2/4: parameter %d", b[0])
		}
		if n == 0 || len(b) < head+n {
			return o, errors.New("2/0: a parameter is cut")
		}
		for caps := b[head : head+n]; len(caps) > 0; {
			if len(caps) < 2 || len(caps) < 2+int(caps[1]) {
				return o, errors.New("2/0: a capability is cut")
			}
			code, v := caps[0], caps[2:2+int(caps[1])]
			caps = caps[2+len(v):]
			if _, twice := seen[code]; twice && code != 1 {
				return o, fmt.Errorf("2/0: capability %d twice", code)
			}
			seen[code] = v
			if err := o.capability(code, v); err != nil {
				return o, err
			}
		}
		b = b[head+n:]
	}
	if two == 0 || o.as == 0 || o.as == 23456 || (o.as > 0xffff) != (two == 23456) || o.as <= 0xffff && o.as != uint32(two) {
		return o, fmt.Errorf("2/2: AS %d, %d in two octets", o.as, two)
	}
	return o, nil
}

func (o *open) capability(code byte, v []byte) error {
	ok := true
	switch code {
	case 1:
		ok = len(v) == 4 && v[2] == 0
		if ok {
			f := Family{binary.BigEndian.Uint16(v), v[3]}
			ok = !slices.Contains(o.multi, f)
			o.multi = append(o.multi, f)
		}
	case 2:
		o.refresh, ok = true, len(v) == 0
	case 5:
		ok = len(v) > 0 && len(v)%6 == 0
		for ; ok && len(v) > 0; v = v[6:] {
			o.extendedNextHop = o.extendedNextHop || string(v[:6]) == "\x00\x01\x00\x01\x00\x02"
		}
	case 9:
		if ok = len(v) == 1 && v[0] <= 4; ok {
			o.role = role(v[0]) + 1
		}
	case 64:
		o.graceful, ok = true, len(v) >= 2 && len(v)%4 == 2
	case 65:
		if ok = len(v) == 4; ok {
			o.four, o.as = true, binary.BigEndian.Uint32(v)
		}
	case 71:
		ok = len(v)%7 == 0
	default:
		return fmt.Errorf("2/7: capability %d", code)
	}
	if !ok {
		return fmt.Errorf("2/0: capability %d of %x", code, v)
	}
	return nil
}
