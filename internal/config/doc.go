// Package config has the settings of the program. Each is a flag and an environment variable of the
// same name, described in one table.
//
// A command lists the settings that it uses (Flags) and reads them in its action through a Reader.
// The Reader collects all wrong and missing values, so that one start reports all of them. A value
// comes from the flag, else from the variable, else from dopamine.env in the data folder
// (FromData), else it is the default. An empty value counts as absent.
package config
