package lb

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A MAC is an Ethernet hardware address.
type MAC [6]byte

// String returns the colon form, lower case.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// ParseMAC parses the colon form.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != len(m) || len(s) != 17 {
		return m, fmt.Errorf("hardware address %q: want six hexadecimal octets, such as 02:00:5e:10:00:01", s)
	}
	copy(m[:], b)
	return m, nil
}

// An Interface is a network interface of a node as its kernel describes it.
type Interface struct {
	Index int
	Name  string
	MAC   MAC
	// Up is administrative state (IFF_UP); Carrier is the lower layer's
	// (IFF_LOWER_UP): a cable is in and the other end is there.
	Up, Carrier bool
	// Loopback, NoARP (IFF_NOARP) and Enslaved (member of a bridge, bond or
	// team) rule an interface out for layer 2.
	Loopback, NoARP, Enslaved bool
	// Sealed is set when the speaker may not open packet sockets (it lacks
	// CAP_NET_RAW), which rules all of its interfaces out.
	Sealed bool
	// Addresses are the interface's addresses with their subnets, link-local
	// ones included.
	Addresses []netip.Prefix
	// Flags are those of the addresses that have any.
	Flags map[netip.Prefix]AddressFlags
	// Elsewhere are the subnets of its addresses, ascending, to which the kernel's
	// route leads by another interface of the node, which is in them, too.
	Elsewhere []netip.Prefix
}

// AddressFlags are what a kernel says of an interface's address beside its subnet.
type AddressFlags uint8

// Address flags.
const (
	// AddressTentative: duplicate address detection has not ended (RFC 4862).
	AddressTentative AddressFlags = 1 << iota
	// AddressDeprecated: its preferred lifetime is over, or it never had one.
	AddressDeprecated
	// AddressTemporary: it is replaced by another before long, for privacy (RFC 8981).
	AddressTemporary
	// AddressSecondary: it is not the first IPv4 address of its subnet.
	AddressSecondary
	// AddressDynamic: it has a lifetime that ends unless it is renewed.
	AddressDynamic
)

// OnLink reports whether a subnet of the interface contains a.
func (i Interface) OnLink(a netip.Addr) bool {
	for _, p := range i.Addresses {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Equal reports whether two descriptions say the same.
func (i Interface) Equal(o Interface) bool {
	return i.Index == o.Index && i.Name == o.Name && i.MAC == o.MAC && i.Up == o.Up && i.Carrier == o.Carrier &&
		i.Loopback == o.Loopback && i.NoARP == o.NoARP && i.Enslaved == o.Enslaved && i.Sealed == o.Sealed &&
		slices.Equal(i.Addresses, o.Addresses) && maps.Equal(i.Flags, o.Flags) && slices.Equal(i.Elsewhere, o.Elsewhere)
}

// An InterfaceFault says why an interface cannot announce; InterfaceOK when it
// can.
type InterfaceFault uint8

// Interface faults.
const (
	InterfaceOK InterfaceFault = iota
	InterfaceLoopback
	InterfaceDown
	InterfaceNoCarrier
	InterfaceNoARP
	InterfaceEnslaved
	InterfaceNoMAC
	InterfaceSealed
)

var interfaceFaults = [...]string{"usable", "loopback", "down", "no carrier", "NOARP", "enslaved", "no hardware address", "raw sockets are not permitted"}

// String returns the fault in words.
func (f InterfaceFault) String() string { return interfaceFaults[f] }

// Fault returns why the interface cannot announce by layer 2, or InterfaceOK.
func (i Interface) Fault() InterfaceFault {
	switch {
	case i.Loopback:
		return InterfaceLoopback
	case i.Sealed:
		return InterfaceSealed
	case i.Enslaved:
		return InterfaceEnslaved
	case i.NoARP:
		return InterfaceNoARP
	case i.MAC == MAC{}:
		return InterfaceNoMAC
	case !i.Up:
		return InterfaceDown
	case !i.Carrier:
		return InterfaceNoCarrier
	default:
		return InterfaceOK
	}
}
