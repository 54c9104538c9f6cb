package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
)

var failbacks = map[v1beta1.Failback]lb.Failback{
	"":                        lb.FailbackNever,
	v1beta1.FailbackNever:     lb.FailbackNever,
	v1beta1.FailbackImmediate: lb.FailbackImmediate,
}

var conflictPolicies = map[v1beta1.ConflictPolicy]lb.ConflictPolicy{
	"":                       lb.ConflictWithhold,
	v1beta1.ConflictWithhold: lb.ConflictWithhold,
	v1beta1.ConflictDefend:   lb.ConflictDefend,
	v1beta1.ConflictIgnore:   lb.ConflictIgnore,
}

// defaultExcludeInterfaces are the names that container networks and runtimes
// give to their interfaces; the schema has the same default.
var defaultExcludeInterfaces = []v1beta1.InterfacePattern{
	"docker*", "cbr*", "veth*", "cali*", "cni*", "flannel*", "lxc*", "tunl*", "kube-ipvs*", "virbr*", "nodelocaldns*",
}

// L2Advertisement compiles an L2Advertisement by itself. A pattern that cannot be
// understood matches no interface.
func L2Advertisement(a *v1beta1.L2Advertisement) (lb.L2Advertisement, []Problem) {
	spec := &a.Spec
	ad := lb.L2Advertisement{Name: a.Name, Created: a.CreationTimestamp.Time, Scope: lb.Scope{Pools: texts(spec.IPAddressPools)}}
	var problems, wrong []Problem
	add := func(p ...Problem) { problems = append(problems, p...) }

	ad.PoolSelectors, wrong = Selectors("spec.ipAddressPoolSelectors", spec.IPAddressPoolSelectors)
	add(wrong...)
	ad.ServiceSelectors, wrong = Selectors("spec.serviceSelectors", spec.ServiceSelectors)
	add(wrong...)
	ad.NodeSelectors, wrong = Selectors("spec.nodeSelectors", spec.NodeSelectors)
	add(wrong...)
	for i, p := range spec.PreferredNodes {
		at := fmt.Sprintf("spec.preferredNodes[%d]", i)
		preference, wrong := Selector(at+".preference", p.Preference)
		add(wrong...)
		if p.Weight < 1 || p.Weight > 100 {
			add(invalid(at+".weight", "%d is not from 1 to 100", p.Weight))
			continue
		}
		ad.PreferredNodes = append(ad.PreferredNodes, lb.NodePreference{Weight: int(p.Weight), Preference: preference})
	}
	exclude := spec.ExcludeInterfaces
	if exclude == nil {
		exclude = defaultExcludeInterfaces
	}
	ad.Interfaces, wrong = interfaces("spec.interfaces", spec.Interfaces)
	add(wrong...)
	ad.ExcludeInterfaces, wrong = interfaces("spec.excludeInterfaces", exclude)
	add(wrong...)
	var ok bool
	if ad.Failback, ok = failbacks[spec.Failback]; !ok {
		add(invalid("spec.failback", "%q is neither Never nor Immediate", spec.Failback))
	}
	if ad.ConflictPolicy, ok = conflictPolicies[spec.ConflictPolicy]; !ok {
		add(invalid("spec.conflictPolicy", "%q is none of Withhold, Defend and Ignore", spec.ConflictPolicy))
	}
	return ad, append(problems, unsupportedIn(spec, unsupportedL2Advertisement)...)
}

// interfaces compiles a list of interface patterns found at field.
func interfaces(field string, patterns []v1beta1.InterfacePattern) ([]string, []Problem) {
	var problems []Problem
	for i, p := range patterns {
		if err := CheckInterface(string(p)); err != nil {
			problems = append(problems, invalid(fmt.Sprintf("%s[%d]", field, i), "%q: %v", p, err))
		}
	}
	return texts(patterns), problems
}

// maxInterfaceName is IFNAMSIZ of Linux less the final zero byte.
const maxInterfaceName = 15

// globs are the patterns of path.Match whose sets hold neither brackets nor '^'
// and need no escapes: those that mean the same wherever globs are known.
var globs = regexp.MustCompile(`^([^\[\]]|\[\^?([^-\[\]^](-[^-\[\]^])?)+\])*$`)

// CheckInterface tells what is wrong with the name of an interface or a pattern
// of names. It accepts exactly what the API server does.
func CheckInterface(pattern string) error {
	switch {
	case pattern == "":
		return errors.New("an interface has a name")
	case strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`/:\`, r) }):
		return errors.New(`an interface has no blanks, '/', ':' or '\' in its name`)
	case !strings.ContainsAny(pattern, "*?[]") && len(pattern) > maxInterfaceName:
		return fmt.Errorf("an interface name has at most %d characters", maxInterfaceName)
	case !globs.MatchString(pattern):
		return errors.New("an interface pattern has sets in brackets such as eth[0-3], and every bracket is closed")
	default:
		return nil
	}
}
