package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// special are blocks with no address that a Service can have.
var special = []struct {
	block netip.Prefix
	name  string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	// ::, ::1, IPv4-compatible and IPv4-mapped addresses (RFC 4291, section 2.5).
	{netip.MustParsePrefix("::/80"), "unspecified, loopback or IPv4-mapped"},
	// fe80::/10 and its neighbor, the abolished site-local fec0::/10 (RFC 3879).
	{netip.MustParsePrefix("fe80::/9"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

var errForm = errors.New("want an address, a CIDR or a range of two addresses joined by '-', IPv4 or IPv6")

// ParseAddressRange parses a CIDR without bits beyond its prefix length, a range
// "first-last" with or without blanks round the '-', or a single address. It
// accepts exactly what the API server does.
func ParseAddressRange(text string) (lb.AddressRange, error) {
	r, err := parseAddressRange(text)
	if err != nil {
		return lb.AddressRange{}, err
	}
	if r.First.BitLen() != r.Last.BitLen() {
		return lb.AddressRange{}, errors.New("both ends of a range must be of the same family")
	}
	if r.Last.Less(r.First) {
		return lb.AddressRange{}, errors.New("the first address of a range must not be above the last")
	}
	for _, s := range special {
		if len(ranges.Intersect([]lb.AddressRange{r}, []lb.AddressRange{ranges.Of(s.block)})) > 0 {
			return lb.AddressRange{}, fmt.Errorf("contains %s addresses (%s)", s.name, s.block)
		}
	}
	return r, nil
}

func parseAddressRange(text string) (lb.AddressRange, error) {
	if first, last, ok := strings.Cut(text, "-"); ok {
		a, err := parseAddress(strings.TrimSpace(first))
		if err != nil {
			return lb.AddressRange{}, err
		}
		b, err := parseAddress(strings.TrimSpace(last))
		return lb.AddressRange{First: a, Last: b}, err
	}
	if !strings.Contains(text, "/") {
		a, err := parseAddress(text)
		return lb.AddressRange{First: a, Last: a}, err
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return lb.AddressRange{}, errForm
	}
	if err := plain(p.Addr()); err != nil {
		return lb.AddressRange{}, err
	}
	if p != p.Masked() {
		return lb.AddressRange{}, fmt.Errorf("a CIDR must have no bits set beyond its prefix length: %s, or a range for a part of it", p.Masked())
	}
	return ranges.Of(p), nil
}

func parseAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, errForm
	}
	return a, plain(a)
}

// plain refuses addresses that have a second way of being written or that mean
// something on one link only.
func plain(a netip.Addr) error {
	switch {
	case a.Zone() != "":
		return errors.New("an address of a pool has no zone")
	case a.Is4In6():
		return fmt.Errorf("write the IPv4-mapped address as %s", a.Unmap())
	default:
		return nil
	}
}
