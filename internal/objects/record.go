package objects

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// A gift is what our record of a Service says: which addresses we gave it, from which
// pools, and which installation of ours did. The record is the message of the condition
// Recorded, such as
//
//	192.0.2.1 from edge, 2001:db8::1 from six; by belfry-second
//
// where the installation in DefaultNamespace is named only when there is nothing else
// to say. Each pool stands beside its address, so what others put into the status
// beside that has no record.
type gift struct {
	addresses []netip.Addr
	pools     []string
	// by is the namespace of the installation; empty when the record names none.
	by string
}

const (
	recordFrom = " from "
	recordBy   = "by "
)

// recordOn stands between an address and its node in the message of the condition
// Placed, such as
//
//	192.0.2.1 on node1, 2001:db8::1 on node2
const recordOn = " on "

// String writes the record. It is empty where there is nothing to say.
func (g gift) String() string {
	var parts []string
	if gave := pairs(g.addresses, recordFrom, g.pools); gave != "" {
		parts = append(parts, gave)
	}
	if g.by != "" && (g.by != DefaultNamespace || parts == nil) {
		parts = append(parts, recordBy+g.by)
	}
	return strings.Join(parts, "; ")
}

// parseRecord reads a record; what it does not understand it leaves out.
func parseRecord(text string) (g gift) {
	for part := range strings.SplitSeq(text, "; ") {
		if by, ok := strings.CutPrefix(part, recordBy); ok {
			g.by = strings.Clone(by)
			continue
		}
		addresses, pools := parsePairs(part, recordFrom)
		g.addresses, g.pools = append(g.addresses, addresses...), append(g.pools, pools...)
	}
	if g.by == "" && g.addresses != nil {
		g.by = DefaultNamespace
	}
	return g
}

// pairs writes what a record says of addresses: a name for each, none where that is
// empty.
func pairs(addresses []netip.Addr, between string, names []string) string {
	var out []string
	for i, a := range addresses {
		if i < len(names) && names[i] != "" {
			out = append(out, a.String()+between+names[i])
		}
	}
	return strings.Join(out, ", ")
}

// parsePairs reads them.
func parsePairs(text, between string) (addresses []netip.Addr, names []string) {
	for pair := range strings.SplitSeq(text, ", ") {
		address, name, ok := strings.Cut(pair, between)
		if a, err := netip.ParseAddr(address); ok && err == nil {
			addresses, names = append(addresses, a), append(names, name)
		}
	}
	return addresses, names
}

// namesOf returns what is recorded of each address, empty for those that are not
// recorded; nil when none is.
func namesOf(addresses, recorded []netip.Addr, names []string) []string {
	var out []string
	for i, a := range addresses {
		if j := slices.Index(recorded, a); j >= 0 {
			if out == nil {
				out = make([]string, len(addresses))
			}
			out[i] = names[j]
		}
	}
	return out
}

// withdrawn returns what a Service holds given what its status shows, and those of it
// that another writer took out of the status: what is recorded comes first, since who
// writes a status moves no Service to another address.
func (g gift) withdrawn(shown []netip.Addr) (held, withdrawn []netip.Addr) {
	for _, a := range g.addresses {
		if !slices.Contains(shown, a) && !slices.Contains(withdrawn, a) {
			withdrawn = append(withdrawn, a)
		}
	}
	if withdrawn == nil {
		return shown, nil
	}
	for _, a := range slices.Concat(g.addresses, shown) {
		if !slices.Contains(held, a) {
			held = append(held, a)
		}
	}
	return held, withdrawn
}

// shown returns which addresses that a status shows are to be announced: any where there is
// no record, else those that it names. What others put beside them or in their place was
// not given, and nothing was to a Service that waits.
func (g gift) shown(addresses []netip.Addr) []netip.Addr {
	if g.by == "" {
		return addresses
	}
	return slices.DeleteFunc(addresses, func(a netip.Addr) bool { return !slices.Contains(g.addresses, a) })
}

// maxOthers is how many of the names in an ingress list are told.
const maxOthers = 3

// others lists what an ingress list shows that is no address.
func others(ingress []corev1.LoadBalancerIngress) (names []string) {
	for _, in := range ingress {
		if _, ok := address(in.IP); ok {
			continue
		}
		if name := in.IP + in.Hostname; name != "" && len(names) < maxOthers {
			names = append(names, short(name, maxName))
		}
	}
	return names
}

// stays returns what remains of a Service's ingress list when we have no address for it:
// that which is not ours. Left are the addresses of others.
func (s *Service) stays(left []netip.Addr) (ingress []corev1.LoadBalancerIngress, changes bool) {
	if s.Exact {
		kept := slices.DeleteFunc(slices.Clone(s.Assigned), func(a netip.Addr) bool { return !slices.Contains(left, a) })
		return ours(kept), len(kept) < len(s.Assigned)
	}
	for _, in := range s.ingress {
		a, ok := address(in.IP)
		if !ok || slices.Contains(left, a) {
			ingress = append(ingress, in)
		}
	}
	return ingress, len(ingress) < len(s.ingress)
}

// ours is the ingress list of addresses as we write it.
func ours(addresses []netip.Addr) (ingress []corev1.LoadBalancerIngress) {
	vip := corev1.LoadBalancerIPModeVIP
	for _, a := range addresses {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &vip})
	}
	return ingress
}
