package migrate

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// fields are those of one object, or of a part of it. What is taken is taken out, so that
// what nobody took is left.
type fields struct {
	object, path string
	of           map[string]any
	t            *Translation
}

// note tells something about a field; an empty name stands for the whole.
func (f *fields) note(name, text string) {
	f.t.Notes = append(f.t.Notes, Note{f.object, f.at(name), text})
}

func (f *fields) at(name string) string { return strings.Trim(f.path+"."+name, ".") }

// misfit notes a value of another type than its field has.
func (f *fields) misfit(name string, v any) {
	f.note(name, fmt.Sprintf("%s is not a value that this field can have: it is left out", shown(name, v)))
}

// shown is a value as notes show it: no password is.
func shown(name string, v any) string {
	if strings.Contains(strings.ToLower(name), "password") {
		return "what stands there"
	}
	return text(v)
}

// take takes a field out.
func (f *fields) take(name string) (any, bool) {
	value, is := f.of[name]
	delete(f.of, name)
	return value, is && value != nil
}

// value takes a field of type T, or notes that it is none.
func value[T any](f *fields, name string) (v T, is bool) {
	taken, is := f.take(name)
	if !is {
		return v, false
	}
	v, fits := taken.(T)
	if !fits {
		f.misfit(name, taken)
	}
	return v, fits
}

func (f *fields) text(name string) string  { v, _ := value[string](f, name); return v }
func (f *fields) boolean(name string) bool { v, _ := value[bool](f, name); return v }
func (f *fields) list(name string) []any   { v, _ := value[[]any](f, name); return v }
func (f *fields) part(name string) *fields {
	v, _ := value[map[string]any](f, name)
	return f.below(name, v)
}

// number takes a number from 0 to most.
func (f *fields) number(name string, most int64) (int64, bool) {
	v, is := value[json.Number](f, name)
	if !is {
		return 0, false
	}
	n, err := v.Int64()
	if err != nil || n < 0 || n > most {
		f.note(name, fmt.Sprintf("%s is not a number from 0 to %d: it is left out", v, most))
		return 0, false
	}
	return n, true
}

// below is a part of the object.
func (f *fields) below(name string, of map[string]any) *fields {
	return &fields{f.object, f.at(name), of, f.t}
}

// parts takes a list of parts.
func (f *fields) parts(name string) (out []*fields) {
	for i, v := range f.list(name) {
		of, is := v.(map[string]any)
		if !is {
			f.misfit(fmt.Sprintf("%s[%d]", name, i), v)
			continue
		}
		out = append(out, f.below(fmt.Sprintf("%s[%d]", name, i), of))
	}
	return out
}

// texts takes a list of texts.
func (f *fields) texts(name string) (out []string) {
	for i, v := range f.list(name) {
		s, is := v.(string)
		if !is {
			f.misfit(fmt.Sprintf("%s[%d]", name, i), v)
			continue
		}
		out = append(out, s)
	}
	return out
}

// names takes a list of names.
func names[T ~string](f *fields, name string) (out []T) {
	for _, s := range f.texts(name) {
		out = append(out, T(s))
	}
	return out
}

// seconds takes a duration, which is written in whole seconds here; empty for none.
func (f *fields) seconds(name string) v1beta1.Duration {
	s := f.text(name)
	if s == "" {
		return ""
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		f.note(name, fmt.Sprintf("%q is no duration: it is left out", s))
		return ""
	}
	if whole := d.Truncate(time.Second); whole != d {
		f.note(name, fmt.Sprintf("%s becomes %s: routers are told whole seconds", d, whole))
		d = whole
	}
	return v1beta1.Duration(fmt.Sprintf("%ds", int64(d/time.Second)))
}

// selectors takes a list of label selectors.
func (f *fields) selectors(name string) (out []v1beta1.LabelSelector) {
	for _, p := range f.parts(name) {
		var s v1beta1.LabelSelector
		labels := p.part("matchLabels")
		for _, key := range slices.Sorted(maps.Keys(labels.of)) {
			if s.MatchLabels == nil {
				s.MatchLabels = map[string]v1beta1.LabelValue{}
			}
			s.MatchLabels[key] = v1beta1.LabelValue(labels.text(key))
		}
		for _, e := range p.parts("matchExpressions") {
			s.MatchExpressions = append(s.MatchExpressions, v1beta1.LabelSelectorRequirement{
				Key: v1beta1.LabelKey(e.text("key")), Operator: v1beta1.LabelOperator(e.text("operator")), Values: names[v1beta1.LabelValue](e, "values"),
			})
			e.rest()
		}
		p.rest()
		out = append(out, s)
	}
	return out
}

// rest notes every field that nobody took.
func (f *fields) rest() {
	for _, name := range slices.Sorted(maps.Keys(f.of)) {
		if v, is := f.take(name); is {
			f.note(name, fmt.Sprintf("%s: this field is not known here, and is left out", shown(name, v)))
		}
	}
}

// text shows a value, the beginning of a long one.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(b) > 60 {
		return string(b[:60]) + "..."
	}
	return string(b)
}
