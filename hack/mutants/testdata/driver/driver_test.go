package driver

import "testing"

func TestPatience(t *testing.T) {
	if Patient() {
		t.Error("what takes long must be ended")
	}
}
