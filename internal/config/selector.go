package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
)

var operators = map[v1beta1.LabelOperator]lb.Operator{
	v1beta1.LabelIn:           lb.In,
	v1beta1.LabelNotIn:        lb.NotIn,
	v1beta1.LabelExists:       lb.Exists,
	v1beta1.LabelDoesNotExist: lb.DoesNotExist,
}

// never is a requirement that no labels meet: what a term that cannot be
// understood becomes. No label key is empty.
var never = lb.Requirement{Key: "", Operator: lb.Exists}

// Selector compiles a label selector found at field.
func Selector(field string, s v1beta1.LabelSelector) (lb.Selector, []Problem) {
	selector := lb.Selector{}
	var problems []Problem
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		selector = append(selector, lb.Requirement{Key: k, Operator: lb.In, Values: []string{string(s.MatchLabels[k])}})
	}
	for i, e := range s.MatchExpressions {
		at := fmt.Sprintf("%s.matchExpressions[%d]", field, i)
		op, known := operators[e.Operator]
		takes := op == lb.In || op == lb.NotIn
		switch {
		case !known:
			problems = append(problems, invalid(at+".operator", "%q is none of In, NotIn, Exists and DoesNotExist", e.Operator))
			selector = append(selector, never)
		case takes && len(e.Values) == 0:
			problems = append(problems, invalid(at+".values", "operator %s needs values", e.Operator))
			selector = append(selector, never)
		case !takes && len(e.Values) > 0:
			problems = append(problems, invalid(at+".values", "operator %s takes no values", e.Operator))
			selector = append(selector, never)
		default:
			selector = append(selector, lb.Requirement{Key: string(e.Key), Operator: op, Values: texts(e.Values)})
		}
	}
	return selector, problems
}

// Selectors compiles a list of label selectors found at field.
func Selectors(field string, list []v1beta1.LabelSelector) ([]lb.Selector, []Problem) {
	var selectors []lb.Selector
	var problems []Problem
	for i, s := range list {
		selector, p := Selector(fmt.Sprintf("%s[%d]", field, i), s)
		selectors = append(selectors, selector)
		problems = append(problems, p...)
	}
	return selectors, problems
}

// texts returns strings of a kind as plain ones; nil stays nil.
func texts[S ~string](list []S) []string {
	var all []string
	for _, s := range list {
		all = append(all, string(s))
	}
	return all
}
