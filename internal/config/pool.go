package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

var orphanPolicies = map[v1beta1.OrphanPolicy]lb.OrphanPolicy{
	"":                     lb.OrphanKeep,
	v1beta1.OrphanKeep:     lb.OrphanKeep,
	v1beta1.OrphanReassign: lb.OrphanReassign,
}

var strategies = map[v1beta1.Strategy]lb.Strategy{
	"":                                lb.LeastRecentlyUsed,
	v1beta1.StrategyLeastRecentlyUsed: lb.LeastRecentlyUsed,
	v1beta1.StrategyFirstFree:         lb.FirstFree,
	v1beta1.StrategyHash:              lb.Hash,
}

// Pool compiles an IPAddressPool by itself. With problems other than
// ReasonUnsupported the pool drains: it serves what is in use, and hands out
// nothing that the operator may have meant to keep back.
func Pool(p *v1beta1.IPAddressPool) (lb.Pool, []Problem) {
	spec := &p.Spec
	pool := lb.Pool{
		Name:                   p.Name,
		Created:                p.CreationTimestamp.Time,
		Labels:                 p.Labels,
		AvoidBuggyIPs:          spec.AvoidBuggyIPs,
		AutoAssign:             spec.AutoAssign == nil || *spec.AutoAssign,
		SharedAcrossNamespaces: spec.SharedAcrossNamespaces,
		Drain:                  spec.Drain,
		Deleting:               p.DeletionTimestamp != nil,
		Freed:                  freed(p.Status.Freed),
		Records:                records(p.Status.Orphans),
	}
	var problems []Problem
	add := func(p ...Problem) { problems = append(problems, p...) }

	addresses, wrong := addressSet("spec.addresses", spec.Addresses)
	add(wrong...)
	if len(spec.Addresses) == 0 {
		add(invalid("spec.addresses", "a pool needs addresses"))
	}
	excluded, wrong := addressSet("spec.excludeAddresses", spec.ExcludeAddresses)
	add(wrong...)
	pool.Ranges = ranges.Subtract(addresses, excluded)

	if a := spec.ServiceAllocation; a != nil {
		pool.Allocation, wrong = serviceAllocation("spec.serviceAllocation", a)
		add(wrong...)
	}
	var ok bool
	if pool.Orphans, ok = orphanPolicies[spec.OrphanPolicy]; !ok {
		add(invalid("spec.orphanPolicy", "%q is neither Keep nor Reassign", spec.OrphanPolicy))
	}
	if pool.Strategy, ok = strategies[spec.Strategy]; !ok {
		add(invalid("spec.strategy", "%q is none of FirstFree, LeastRecentlyUsed and Hash", spec.Strategy))
	}
	var err error
	if pool.Retention, err = ParseDuration(spec.Retention); err != nil {
		add(invalid("spec.retention", "%v", err))
	}
	pool.Drain = pool.Drain || len(problems) > 0
	return pool, append(problems, unsupportedIn(spec, unsupportedPool)...)
}

// addressSet parses a list of address ranges. What cannot be parsed is left out.
func addressSet(field string, list []v1beta1.AddressRange) ([]lb.AddressRange, []Problem) {
	var all []lb.AddressRange
	var problems []Problem
	for i, text := range list {
		r, err := ParseAddressRange(string(text))
		if err != nil {
			problems = append(problems, invalid(fmt.Sprintf("%s[%d]", field, i), "%q: %v", text, err))
			continue
		}
		all = append(all, r)
	}
	return ranges.Union(all), problems
}

func serviceAllocation(field string, a *v1beta1.ServiceAllocation) (*lb.ServiceAllocation, []Problem) {
	out := &lb.ServiceAllocation{
		Priority:          int(a.Priority),
		Namespaces:        texts(a.Namespaces),
		PerNamespaceLimit: int(a.PerNamespaceLimit),
	}
	var problems, wrong []Problem
	if a.Priority < 0 {
		problems = append(problems, invalid(field+".priority", "%d is negative", a.Priority))
		out.Priority = 0
	}
	out.NamespaceSelectors, wrong = Selectors(field+".namespaceSelectors", a.NamespaceSelectors)
	problems = append(problems, wrong...)
	out.ServiceSelectors, wrong = Selectors(field+".serviceSelectors", a.ServiceSelectors)
	problems = append(problems, wrong...)
	if a.PerNamespaceLimit < 0 {
		problems = append(problems, invalid(field+".perNamespaceLimit", "%d is negative", a.PerNamespaceLimit))
		out.PerNamespaceLimit = 0
	}
	return out, problems
}

// ParseDuration parses a length of time that is not negative; none is zero.
func ParseDuration(d v1beta1.Duration) (time.Duration, error) {
	if d == "" {
		return 0, nil
	}
	t, err := time.ParseDuration(string(d))
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a duration such as 90s or 1h30m", d)
	case t < 0:
		return 0, errors.New("a duration must not be negative")
	default:
		return t, nil
	}
}

// records reads back which addresses a pool gave and covers no more. Entries that
// cannot be read are none.
func records(entries []v1beta1.OrphanedAddress) []netip.Addr {
	var all []netip.Addr
	for _, e := range entries {
		if list, err := ranges.Parse([]string{e.Address}); err == nil {
			all = append(all, list...)
		}
	}
	return all
}

// freed reads the free list back. Entries that cannot be read are forgotten: the
// controller wrote them, and nothing but an order of preference is lost. One
// without a Service is for none.
func freed(entries []v1beta1.FreedAddress) []lb.FreedAddress {
	var all []lb.FreedAddress
	for _, e := range entries {
		list, err := ranges.Parse([]string{e.Address})
		namespace, name, ok := strings.Cut(e.Service, "/")
		if err != nil || !ok && e.Service != "" {
			continue
		}
		for _, a := range list {
			all = append(all, lb.FreedAddress{Address: a, Service: lb.ServiceKey{Namespace: namespace, Name: name}, At: e.Time.Time})
		}
	}
	return all
}
