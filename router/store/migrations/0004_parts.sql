-- Attempts that make some of the images that their task asks for.

-- How many, beginning with the image of index part; 0: all of them, as every attempt did before.
alter table attempt add column count bigint not null default 0;

-- What the upstream said it used, of a result that waits in output for those of other attempts.
alter table attempt add column usage text;
