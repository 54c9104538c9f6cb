package lb

import "slices"

// An Operator relates a label to a set of values.
type Operator uint8

// The operators of Kubernetes label selectors.
const (
	In Operator = iota
	NotIn
	Exists
	DoesNotExist
)

// A Requirement is one term of a Selector.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string
}

// Matches reports whether labels satisfy the requirement. NotIn holds for an
// absent label, as in Kubernetes.
func (r Requirement) Matches(labels map[string]string) bool {
	value, present := labels[r.Key]
	switch r.Operator {
	case In:
		return present && slices.Contains(r.Values, value)
	case NotIn:
		return !present || !slices.Contains(r.Values, value)
	case Exists:
		return present
	case DoesNotExist:
		return !present
	default:
		return false
	}
}

// A Selector matches labels that satisfy all its requirements; the empty
// selector matches everything.
type Selector []Requirement

// Matches reports whether labels satisfy the selector.
func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s {
		if !r.Matches(labels) {
			return false
		}
	}
	return true
}

// MatchesAny reports whether one of the selectors matches. No selectors at all
// select nothing.
func MatchesAny(selectors []Selector, labels map[string]string) bool {
	return slices.ContainsFunc(selectors, func(s Selector) bool { return s.Matches(labels) })
}

// Selected reports whether one of the selectors matches, or there are none: those that
// may be left out select everything then.
func Selected(selectors []Selector, labels map[string]string) bool {
	return len(selectors) == 0 || MatchesAny(selectors, labels)
}
