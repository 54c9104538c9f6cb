// Package config turns API objects into the nouns of package lb, or tells every
// problem with them by field.
//
// The API server has refused what one object alone can show to be wrong; this
// package checks all of it again, for objects stored before it knew the rules,
// and then compares objects with each other. An object with problems is still
// handed on, because what works must not be withdrawn, with everything that
// could not be understood left out so that it can only narrow: a selector matches
// nothing, and a pool hands out nothing new.
package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// A Problem is one thing that is wrong with one field of an object.
type Problem struct {
	// Field is its path, such as spec.addresses[2].
	Field string
	// Reason classifies it. With ReasonUnknownName the object is acted on all
	// the same.
	Reason v1beta1.Reason
	// Why says what is wrong, without naming the field.
	Why string
}

// String returns the field and what is wrong with it.
func (p Problem) String() string { return p.Field + ": " + p.Why }

func invalid(field, format string, args ...any) Problem {
	return Problem{field, v1beta1.ReasonInvalid, fmt.Sprintf(format, args...)}
}

// A Finding says whether one object is acted on as written.
type Finding struct {
	Kind, Name string
	// Generation is the generation of the object that was judged.
	Generation int64
	// Problems are in the order of the fields; none means accepted.
	Problems []Problem
}

// gravity orders reasons by how much they matter to the author of the object.
var gravity = []v1beta1.Reason{
	v1beta1.ReasonDeleting,
	v1beta1.ReasonInvalid,
	v1beta1.ReasonConflict,
	v1beta1.ReasonDuplicateName,
	v1beta1.ReasonSecretMissing,
	v1beta1.ReasonSecretInvalid,
	v1beta1.ReasonOverlaps,
	v1beta1.ReasonUnsupported,
	v1beta1.ReasonUnknownName,
	v1beta1.ReasonAccepted,
}

// Reason returns the gravest reason among the problems, ReasonAccepted without
// any.
func (v Finding) Reason() v1beta1.Reason {
	reason := v1beta1.ReasonAccepted
	for _, p := range v.Problems {
		if slices.Index(gravity, p.Reason) < slices.Index(gravity, reason) {
			reason = p.Reason
		}
	}
	return reason
}

// Accepted reports whether the object is acted on as written. Naming something
// that does not exist yet does not prevent that.
func (v Finding) Accepted() bool {
	r := v.Reason()
	return r == v1beta1.ReasonAccepted || r == v1beta1.ReasonUnknownName
}

// maxMessage is the longest message that the API server takes in a condition.
const maxMessage = 32768

// Message returns a sentence for each problem.
func (v Finding) Message() string {
	if len(v.Problems) == 0 {
		return "Acted on as written."
	}
	var all []string
	for _, p := range v.Problems {
		all = append(all, p.String()+".")
	}
	m := strings.Join(all, " ")
	if len(m) > maxMessage {
		m = strings.ToValidUTF8(m[:maxMessage-len("...")], "") + "..."
	}
	return m
}

// Condition returns the condition Accepted without its transition time, which
// depends on the condition that the object has.
func (v Finding) Condition() metav1.Condition {
	c := metav1.Condition{
		Type:               v1beta1.ConditionAccepted,
		Status:             metav1.ConditionFalse,
		ObservedGeneration: v.Generation,
		Reason:             string(v.Reason()),
		Message:            v.Message(),
	}
	if v.Accepted() {
		c.Status = metav1.ConditionTrue
	}
	return c
}

// Objects are the objects to compile, in any order.
type Objects struct {
	Pools            []*v1beta1.IPAddressPool
	L2Advertisements []*v1beta1.L2Advertisement
	BGP              BGPObjects
}

// A Config is what Objects mean. Its lists are sorted by name, the findings by
// kind and name.
type Config struct {
	Pools            []lb.Pool
	L2Advertisements []lb.L2Advertisement
	// BGPPeers are those that sessions can be held with.
	BGPPeers          []lb.BGPPeer
	BGPAdvertisements []lb.BGPAdvertisement
	Findings          []Finding
}

// Compile compiles objects and compares them with each other. Nothing depends on
// the order of the objects.
//
// Of two pools that have an address in common one may hand it out (origin.Divide says
// which); the other is served without it.
// An advertisement that names a pool that does not exist is accepted, with a
// reason that says so: pool and advertisement may come in any order.
func Compile(o Objects) Config {
	c := Config{
		Pools:    make([]lb.Pool, 0, len(o.Pools)),
		Findings: make([]Finding, 0, len(o.Pools)+len(o.L2Advertisements)),
	}
	known := make(map[string]bool, len(o.Pools))
	for _, p := range o.Pools {
		pool, problems := Pool(p)
		c.Pools = append(c.Pools, pool)
		c.Findings = append(c.Findings, Finding{"IPAddressPool", p.Name, p.Generation, problems})
		known[p.Name] = true
	}
	divide(c.Pools, c.Findings)
	for _, a := range o.L2Advertisements {
		ad, problems := L2Advertisement(a)
		problems = append(problems, unknownPools(a.Spec.IPAddressPools, known)...)
		c.L2Advertisements = append(c.L2Advertisements, ad)
		c.Findings = append(c.Findings, Finding{"L2Advertisement", a.Name, a.Generation, problems})
	}
	bgp := CompileBGP(o.BGP, known)
	c.BGPPeers, c.BGPAdvertisements = bgp.Peers, bgp.Advertisements
	c.Findings = append(c.Findings, bgp.Findings...)
	slices.SortFunc(c.Pools, func(a, b lb.Pool) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.L2Advertisements, func(a, b lb.L2Advertisement) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return c
}

// divide leaves each address with one of the pools that have it, and tells the others;
// findings are those of the pools, in their order. What becomes of a pool that is being
// deleted is told in other words.
func divide(pools []lb.Pool, findings []Finding) {
	for i, overlaps := range origin.Divide(pools) {
		for _, o := range overlaps {
			if !pools[i].Deleting {
				findings[i].Problems = append(findings[i].Problems, Problem{
					"spec.addresses", v1beta1.ReasonOverlaps,
					fmt.Sprintf("%s belongs to the older pool %s and is not handed out from this one; what is in use stays", list(o.Ranges), o.With),
				})
			}
		}
	}
}

// maxListed is how many ranges a sentence names.
const maxListed = 8

// list names ranges in a sentence.
func list(ranges []lb.AddressRange) string {
	var names []string
	for i, r := range ranges {
		if i == maxListed {
			names = append(names, fmt.Sprintf("%d ranges more", len(ranges)-i))
			break
		}
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}

func unknownPools(names []v1beta1.ObjectName, known map[string]bool) []Problem {
	var problems []Problem
	for i, n := range names {
		if !known[string(n)] {
			problems = append(problems, Problem{
				fmt.Sprintf("spec.ipAddressPools[%d]", i), v1beta1.ReasonUnknownName,
				fmt.Sprintf("there is no IPAddressPool %s; it is advertised once there is", n),
			})
		}
	}
	return problems
}
