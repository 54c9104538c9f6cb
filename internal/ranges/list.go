package ranges

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxElement bounds an element of a list that Format makes, in bytes.
const maxElement = 512

// Format writes addresses, ascending and each once, as a compact list that people
// can read: an element for each block, a /24 of IPv4 or a /112 of IPv6, that begins
// with its first address. The last numbers of others follow after commas, and of
// ranges with a hyphen: "198.51.100.1,3,10-19", "2001:db8::a,c-1f".
func Format(addresses []netip.Addr) []string {
	var out []string
	var element []byte
	var block netip.Prefix
	for i := 0; i < len(addresses); {
		first := addresses[i]
		last := i
		for last+1 < len(addresses) && addresses[last+1] == addresses[last].Next() && blockOf(first).Contains(addresses[last+1]) {
			last++
		}
		part := number(first)
		if last > i {
			part += "-" + number(addresses[last])
		}
		switch {
		case element != nil && block.Contains(first) && len(element)+1+len(part) <= maxElement:
			element = append(append(element, ','), part...)
		default:
			if element != nil {
				out = append(out, string(element))
			}
			block = blockOf(first)
			element = []byte(first.String())
			if last > i {
				element = append(append(element, '-'), number(addresses[last])...)
			}
		}
		i = last + 1
	}
	if element != nil {
		out = append(out, string(element))
	}
	return out
}

// Parse reads what Format writes. The result is ascending, and has each address
// once.
func Parse(list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, element := range list {
		parts := strings.Split(element, ",")
		head, _, _ := strings.Cut(parts[0], "-")
		base, err := netip.ParseAddr(head)
		if err != nil || base.Zone() != "" || base.Is4In6() {
			return nil, fmt.Errorf("%q: want an address first", element)
		}
		for i, part := range parts {
			from, to, ranged := strings.Cut(part, "-")
			low := base
			if i > 0 {
				if low, err = withNumber(base, from); err != nil {
					return nil, fmt.Errorf("%q: %w", element, err)
				}
			}
			high := low
			if ranged {
				if high, err = withNumber(base, to); err != nil {
					return nil, fmt.Errorf("%q: %w", element, err)
				}
			}
			if high.Less(low) {
				return nil, fmt.Errorf("%q: %s ends before it begins", element, part)
			}
			for a := low; ; a = a.Next() {
				if len(out) == maxAddresses {
					return nil, fmt.Errorf("more than %d addresses", maxAddresses)
				}
				out = append(out, a)
				if a == high {
					break
				}
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// maxAddresses bounds what one list may stand for: an element is short, and a
// range of IPv6 is not.
const maxAddresses = 1 << 17

// blockOf returns the block of an address, within which all but its last number is
// the same.
func blockOf(a netip.Addr) netip.Prefix {
	bits := 112
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}

// number is the last number of an address, as it is written.
func number(a netip.Addr) string {
	if a.Is4() {
		return strconv.Itoa(int(a.As4()[3]))
	}
	b := a.As16()
	return strconv.FormatUint(uint64(b[14])<<8|uint64(b[15]), 16)
}

// withNumber returns an address with another last number.
func withNumber(a netip.Addr, text string) (netip.Addr, error) {
	if a.Is4() {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil {
			return a, fmt.Errorf("%q is no number up to 255", text)
		}
		b := a.As4()
		b[3] = byte(n)
		return netip.AddrFrom4(b), nil
	}
	n, err := strconv.ParseUint(text, 16, 16)
	if err != nil {
		return a, fmt.Errorf("%q is no hexadecimal number up to ffff", text)
	}
	b := a.As16()
	b[14], b[15] = byte(n>>8), byte(n)
	return netip.AddrFrom16(b), nil
}
