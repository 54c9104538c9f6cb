package watch

import (
	"testing"

	"github.com/belfrylb/belfry/internal/ownnet"
)

// Nobody else has the ports there.
func TestMain(m *testing.M) { ownnet.Main(m) }
