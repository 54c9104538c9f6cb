package objects

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxExternalIPs is how many externalIPs of one Service are read, the first
// (docs/design/bounds.md).
const maxExternalIPs = 16

// ExternalIPs returns the addresses that a Service names in its externalIPs.
func ExternalIPs(s *corev1.Service) (all []netip.Addr) {
	for _, text := range s.Spec.ExternalIPs {
		if a, ok := address(text); ok && len(all) < maxExternalIPs {
			all = append(all, a)
		}
	}
	return all
}

// address reads an address of a core object as Kubernetes and kube-proxy do, to whom
// zeros before a number of an IPv4 address mean nothing: 192.0.2.010 is 192.0.2.10. An
// address that means something on one link only is none.
func address(text string) (a netip.Addr, ok bool) {
	a, err := netip.ParseAddr(text)
	if err != nil && strings.Count(text, ".") == 3 {
		i := strings.LastIndexByte(text, ':') + 1
		parts := strings.Split(text[i:], ".")
		for j, p := range parts {
			if parts[j] = strings.TrimLeft(p, "0"); parts[j] == "" && p != "" {
				parts[j] = "0"
			}
		}
		a, err = netip.ParseAddr(text[:i] + strings.Join(parts, "."))
	}
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}
