// Package metrics stands in for the one of the same path, whose counters nobody reads here and
// which would make the program twice as large to fetch and to build.
package metrics

import "context"

// IncStreamTranslatorRequest would count the request.
func IncStreamTranslatorRequest(context.Context, string) {}
