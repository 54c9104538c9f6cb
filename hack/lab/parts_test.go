package lab

import (
	"reflect"
	"testing"
)

func TestAPartNeedsOnlyPartsAboveIt(t *testing.T) {
	whole := reflect.TypeFor[Lab]()
	parts := []reflect.Type{reflect.TypeFor[*run](), reflect.TypeFor[*tree]()}
	for i := range whole.NumField() {
		f := whole.Field(i)
		if f.Anonymous {
			t.Errorf("%s is embedded: what one can do with a lab is in its parts, by their names", f.Type)
		}
		if f.IsExported() && f.Type.Kind() == reflect.Pointer {
			parts = append(parts, f.Type)
		}
	}
	if len(parts) < 9 {
		t.Fatalf("a lab has only the parts %v", parts)
	}
	place := map[reflect.Type]int{reflect.TypeFor[*Lab](): len(parts)}
	for i, part := range parts {
		place[part] = i
	}
	for i, part := range parts {
		for j := range part.Elem().NumField() {
			if needs := part.Elem().Field(j).Type; place[needs] > i {
				t.Errorf("%s needs %s, which is not above it", part, needs)
			}
		}
	}
}
