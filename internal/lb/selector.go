package lb

import (
	"maps"
	"slices"
	"strings"
)

// Labels are those of a Service as one text, sorted by key: "app=web,tier=front". A map
// takes several times as much, and there are many Services. Neither keys nor values
// have the two characters between them.
type Labels string

// LabelsOf returns labels as one text.
func LabelsOf(labels map[string]string) Labels {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(labels[k])
	}
	return Labels(strings.Clone(b.String()))
}

// Get returns the value of a label, and whether there is one.
func (l Labels) Get(key string) (value string, ok bool) {
	for rest := string(l); rest != ""; {
		var label string
		label, rest, _ = strings.Cut(rest, ",")
		if value, ok := strings.CutPrefix(label, key); ok && strings.HasPrefix(value, "=") {
			return value[1:], true
		}
	}
	return "", false
}

// labelMap is labels as the API has them.
type labelMap map[string]string

// Get returns the value of a label, and whether there is one.
func (m labelMap) Get(key string) (value string, ok bool) {
	value, ok = m[key]
	return value, ok
}

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

// permits reports whether a label with this value, or an absent one, satisfies the
// requirement. NotIn holds for an absent label, as in Kubernetes.
func (r Requirement) permits(value string, present bool) bool {
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
func (s Selector) Matches(labels map[string]string) bool { return matches(s, labelMap(labels)) }

func matches[L interface{ Get(string) (string, bool) }](s Selector, labels L) bool {
	for _, r := range s {
		if !r.permits(labels.Get(r.Key)) {
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

// SelectedBy reports whether one of the selectors matches the labels of a Service, or there
// are none.
func (l Labels) SelectedBy(selectors []Selector) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s Selector) bool { return matches(s, l) })
}
