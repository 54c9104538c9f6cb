package lbtest

import (
	"strings"

	"github.com/belfrylb/belfry/internal/lb"
)

// LabelMap returns the labels of a Service as a map, read without the code that decisions
// read them by.
func LabelMap(l lb.Labels) map[string]string {
	labels := map[string]string{}
	for _, part := range strings.FieldsFunc(string(l), func(r rune) bool { return r == ',' }) {
		key, value, _ := strings.Cut(part, "=")
		labels[key] = value
	}
	return labels
}
